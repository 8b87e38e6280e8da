"""How much time a request has left, as what runs for it sees that."""

from __future__ import annotations

import time
from contextvars import copy_context

import pytest

import serve_bridge as serve
from serve_bridge.context import request_deadline, within_time_left


def test_where_nothing_is_served_there_is_no_limit() -> None:
    """In a script, for one."""
    assert copy_context().run(serve.time_left) is None


@pytest.mark.parametrize(("deadline", "least", "most"), [(3600.0, 3599.0, 3600.0), (-1.0, 0.0, 0.0)])
def test_what_is_left_is_counted_down_to_nothing(deadline: float, least: float, most: float) -> None:
    """By a clock that nobody sets."""

    def left() -> float | None:
        request_deadline.set(time.monotonic() + deadline)
        return serve.time_left()

    found = copy_context().run(left)
    assert found is not None
    assert least <= found <= most


def test_a_call_gets_no_more_than_is_left() -> None:
    """Its own limit counts only if that is less."""

    def given() -> list[float]:
        request_deadline.set(time.monotonic() + 10)
        return [within_time_left(5.0), within_time_left(60.0)]

    own, bounded = copy_context().run(given)
    assert own == 5.0
    assert bounded <= 10.0
