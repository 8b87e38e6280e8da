"""How setbacks slow down the next try, and when they are many."""

from __future__ import annotations

import asyncio

import pytest

from serve_bridge.controller.repairs import Repairs, Setbacks


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The clock of `setbacks`."""
    return Clock()


@pytest.fixture
def setbacks(clock: Clock) -> Setbacks:
    """Setbacks of which there are none yet."""
    return Setbacks(clock)


def test_the_first_try_does_not_wait(setbacks: Setbacks) -> None:
    """A replica that dies once is replaced at once."""
    assert setbacks.delay_s() == 0.0


def test_each_setback_doubles_the_delay_up_to_a_limit(setbacks: Setbacks) -> None:
    """With jitter that takes away half at most."""
    delays = []
    for _ in range(12):
        setbacks.note("it ended")
        delays.append(setbacks.delay_s())
    for number, delay in enumerate(delays):
        longest = min(0.1 * 2**number, 30.0)
        assert longest / 2 <= delay <= longest


def test_setbacks_are_forgiven_after_a_while(setbacks: Setbacks, clock: Clock) -> None:
    """The next one counts as the first again; the reason of the last is kept."""
    for _ in range(5):
        setbacks.note("it ended")
    clock.now += Setbacks.FORGIVEN_S + 1
    assert (setbacks.delay_s(), setbacks.failed(), setbacks.reason) == (0.0, False, "it ended")
    setbacks.note("again")
    assert setbacks.recent() == 1


def test_five_setbacks_in_a_row_are_a_failure(setbacks: Setbacks) -> None:
    """Four are not yet."""
    found = []
    for _ in range(5):
        setbacks.note("it ended")
        found.append(setbacks.failed())
    assert found == [False] * 4 + [True]


def test_a_repair_that_is_done_leaves_nothing_behind() -> None:
    """Callers may name any backend, so whatever is kept for each name would add up."""

    async def run() -> int:
        async def repair(name: str) -> bool:
            repairs.setbacks.pop(name, None)
            return True

        repairs = Repairs(repair)
        for number in range(100):
            repairs.begin(f"backend-{number}")
        await asyncio.wait(repairs.close())
        await asyncio.sleep(0)  # callbacks of the tasks run in the next turn of the loop
        return len(repairs.close()) + len(repairs.setbacks)

    assert asyncio.run(run()) == 0
