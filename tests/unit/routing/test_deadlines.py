"""The timing wheel of a router: no item expires early, every item expires in the end, and an empty wheel stops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from serve_bridge.routing.deadlines import SLOTS, TICK_S, Deadlines


class Loop:
    """The clock and the only timer of a loop; the test moves them."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timer: tuple[float, Callable[[], None]] | None = None

    def time(self) -> float:
        """Return the clock."""
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> Loop:
        """Set the timer."""
        assert self.timer is None, "one timer is enough"
        self.timer = (self.now + delay, callback)
        return self

    def cancel(self) -> None:
        """Stop the timer."""
        self.timer = None

    def run_until(self, end: float) -> None:
        """Move the clock to *end*, and let the timer fire on the way."""
        while self.timer is not None and self.timer[0] <= end:
            self.now, callback = self.timer
            self.timer = None
            callback()
        self.now = end


class Item:
    """An item which notes the time of its expiry."""

    def __init__(self, loop: Loop, after_s: float) -> None:
        self._loop = loop
        self.deadline = loop.now + after_s
        self.expired_at: list[float] = []

    def expire(self) -> None:
        """Note the time."""
        self.expired_at.append(self._loop.now)


def wheel_of(loop: Loop) -> Deadlines:
    """Return a wheel on *loop*."""
    return Deadlines(cast(Any, loop))


@given(
    st.lists(st.tuples(st.floats(0.0, 40.0), st.floats(0.0, 3.0), st.booleans()), min_size=1, max_size=30),
)
def test_an_item_expires_once_soon_after_its_deadline_unless_it_was_discarded(
    plan: list[tuple[float, float, bool]],
) -> None:
    """Deadlines lie within one turn of the wheel and far beyond it, and items are added at different times."""
    loop = Loop()
    wheel = wheel_of(loop)
    items = []
    for after_s, pause_s, discarded in plan:
        item = Item(loop, after_s)
        wheel.add(item)
        if discarded:
            wheel.discard(item)
        items.append((item, discarded))
        loop.run_until(loop.now + pause_s)
    loop.run_until(loop.now + 50.0)
    for item, discarded in items:
        assert len(item.expired_at) == (0 if discarded else 1)
        for moment in item.expired_at:
            assert item.deadline <= moment <= item.deadline + 3 * TICK_S


def test_a_loop_that_stood_still_expires_what_is_overdue_when_it_goes_on() -> None:
    """The wheel looks at each slot once, however long the loop was blocked."""
    loop = Loop()
    wheel = wheel_of(loop)
    items = [Item(loop, after_s) for after_s in (0.1, 5.0, 3 * SLOTS * TICK_S, 1e6)]
    for item in items:
        wheel.add(item)
    assert loop.timer is not None
    loop.now += 4 * SLOTS * TICK_S
    _, callback = loop.timer
    loop.timer = None
    callback()
    assert [len(item.expired_at) for item in items] == [1, 1, 1, 0]


def test_a_wheel_without_items_stops_and_turns_again_for_the_next() -> None:
    """An idle process has no timer to wake it."""
    loop = Loop()
    wheel = wheel_of(loop)
    first = Item(loop, 0.5)
    wheel.add(first)
    loop.run_until(loop.now + 3 * SLOTS * TICK_S)
    assert first.expired_at
    assert loop.timer is None
    second = Item(loop, 0.5)
    wheel.add(second)
    loop.run_until(loop.now + 1.0)
    assert second.expired_at


def test_an_item_that_comes_when_the_wheel_is_about_to_stop_keeps_it_turning() -> None:
    """The wheel counts its empty slots from the last added item."""
    loop = Loop()
    wheel = wheel_of(loop)
    first = Item(loop, 0.5)
    wheel.add(first)
    wheel.discard(first)
    loop.run_until(loop.now + (SLOTS - 3) * TICK_S)
    assert loop.timer is not None
    late = Item(loop, 1.0)
    wheel.add(late)
    loop.run_until(loop.now + 2.0)
    assert len(late.expired_at) == 1
