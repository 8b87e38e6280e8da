"""How failed starts slow down the next try, and when they are many."""

from __future__ import annotations

import asyncio

import pytest

from serve_bridge.controller.repairs import Repairs, StartFailures
from serve_bridge.errors import ControlPlaneLost
from tests.support.waiting import reached


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The clock of `failures`."""
    return Clock()


@pytest.fixture
def failures(clock: Clock) -> StartFailures:
    """The failures of a backend that has had none yet."""
    return StartFailures(clock)


def test_the_first_try_does_not_wait(failures: StartFailures) -> None:
    """A replica that dies once is replaced at once."""
    assert failures.wait_s() == 0.0


def test_each_failure_doubles_the_wait_up_to_a_limit(failures: StartFailures) -> None:
    """With jitter that takes away half at most."""
    waits = []
    for _ in range(12):
        failures.note("it ended")
        waits.append(failures.wait_s())
    for number, wait in enumerate(waits):
        longest = min(0.1 * 2**number, 30.0)
        assert longest / 2 <= wait <= longest


def test_failures_no_longer_count_after_a_while(failures: StartFailures, clock: Clock) -> None:
    """The next one counts as the first again; the reason of the last is kept."""
    for _ in range(5):
        failures.note("it ended")
    clock.now += StartFailures.RECENT_S + 1
    assert (failures.wait_s(), failures.are_many(), failures.reason) == (0.0, False, "it ended")
    failures.note("again")
    assert failures.recent() == 1


def test_five_failures_in_a_row_are_many(failures: StartFailures) -> None:
    """Four are not yet."""
    found = []
    for _ in range(5):
        failures.note("it ended")
        found.append(failures.are_many())
    assert found == [False] * 4 + [True]


def test_a_repair_that_is_done_leaves_nothing_behind() -> None:
    """Callers may name any backend, so whatever is kept for each name would add up."""

    async def run() -> int:
        async def repair(name: str) -> bool:
            repairs.start_failures.pop(name, None)
            return True

        repairs = Repairs(repair)
        for number in range(100):
            repairs.begin(f"backend-{number}")
        await asyncio.wait(repairs.close())
        await asyncio.sleep(0)  # callbacks of the tasks run in the next turn of the loop
        return len(repairs.close()) + len(repairs.start_failures)

    assert asyncio.run(run()) == 0


def test_a_repair_that_fails_is_tried_again() -> None:
    """The store may fail at its last step, and nothing else would begin another repair."""

    async def run() -> str:
        tries: list[str] = []

        async def repair(name: str) -> bool:
            tries.append(name)
            if len(tries) == 1:
                raise ControlPlaneLost("the store does not answer")
            return True

        repairs = Repairs(repair)
        repairs.begin("b")
        await reached(lambda: len(tries) == 2)
        return repairs.start_failures["b"].reason

    assert asyncio.run(run()) == "the store does not answer"
