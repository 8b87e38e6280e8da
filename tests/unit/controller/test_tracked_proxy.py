"""Whether the loop of a silent proxy is busy, by the processor time that it uses."""

from __future__ import annotations

import pytest

from serve_bridge.controller.tracked_proxy import LoopProgress


@pytest.mark.parametrize(
    ("used", "busy"),
    [
        ([5.0], False),
        ([5.0, 5.0], False),
        ([5.0, 5.01], False),
        ([5.0, 6.0], True),
        ([5.0, 6.0, 6.0], False),
        ([5.0, None], False),
        ([None, 6.0], False),
        ([5.0, None, 6.0], False),
    ],
)
def test_a_loop_is_busy_if_it_used_the_processor_between_two_looks(used: list[float | None], busy: bool) -> None:
    """One look proves nothing, nor does a look without an answer of the runtime."""
    progress = LoopProgress()
    for number, used_s in enumerate(used):
        progress.note(used_s, now=100.0 + 2.0 * number)
    assert (progress.looks, progress.is_busy) == (len(used), busy)
