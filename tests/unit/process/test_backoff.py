"""The waits between the tries of something that fails."""

from __future__ import annotations

from itertools import islice

import pytest

from serve_bridge.process.backoff import Backoff

LONGEST = Backoff(shortest_s=0.1, longest_s=1.0, random=lambda: 1.0)


@pytest.mark.parametrize(
    ("failures", "wait_s"), [(0, 0.0), (1, 0.1), (2, 0.2), (4, 0.8), (5, 1.0), (6, 1.0), (100_000, 1.0)]
)
def test_each_failure_doubles_the_wait_up_to_a_limit(failures: int, wait_s: float) -> None:
    """Without a failure there is no wait."""
    assert LONGEST.wait_s(failures) == pytest.approx(wait_s)


def test_jitter_takes_off_up_to_half_of_a_wait() -> None:
    """Every wait lies between half of it and all of it."""
    shortest = Backoff(shortest_s=0.1, longest_s=1.0, random=lambda: 0.0)
    assert shortest.wait_s(3) == pytest.approx(LONGEST.wait_s(3) / 2)
    waits = {Backoff(shortest_s=0.1, longest_s=1.0).wait_s(3) for _ in range(100)}
    assert len(waits) > 1
    assert all(shortest.wait_s(3) <= wait_s <= LONGEST.wait_s(3) for wait_s in waits)


def test_the_waits_can_be_iterated() -> None:
    """The first one follows the first failure."""
    assert list(islice(LONGEST.waits_s(), 5)) == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0])
