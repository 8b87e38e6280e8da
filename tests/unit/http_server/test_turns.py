"""The turns of the loop that connections share: budget, line, and work that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from serve_bridge.http_server.turns import TURN_COST, Turns


def run(work: Callable[[Turns], Awaitable[None]]) -> None:
    """Run *work* with the turns of its loop."""

    async def begin() -> None:
        await work(Turns())

    asyncio.run(begin())


def test_the_next_turn_has_the_whole_budget_again() -> None:
    """What the last one has overdrawn is forgotten, since one step is short."""

    async def work(turns: Turns) -> None:
        turns.spend(3 * TURN_COST)
        assert not turns.free
        await asyncio.sleep(0)
        assert (turns.free, turns.left) == (True, TURN_COST)

    run(work)


def test_a_connection_does_not_pass_those_in_line() -> None:
    """Else one that reads again and again would keep the others waiting."""

    async def work(turns: Turns) -> None:
        done: list[str] = []
        turns.wait(lambda: done.append("first"))
        assert turns.left > 0
        assert not turns.free
        await asyncio.sleep(0)
        assert (done, turns.free) == (["first"], True)

    run(work)


def test_the_budget_of_a_turn_is_shared_in_fifo_order() -> None:
    """Each of many connections makes progress, and no turn does much more than its budget."""

    async def work(turns: Turns) -> None:
        steps: list[int] = []
        left = dict.fromkeys(range(10), 3)

        def step(number: int) -> None:
            steps.append(number)
            turns.spend(TURN_COST // 2)
            left[number] -= 1
            if left[number]:
                turns.wait(lambda: step(number))

        for number in left:
            turns.wait(lambda number=number: step(number))  # type: ignore[misc]
        while any(left.values()):
            before = len(steps)
            await asyncio.sleep(0)
            assert len(steps) - before <= 2
        assert steps == [*range(10)] * 3

    run(work)


def test_work_that_fails_holds_up_nobody() -> None:
    """The error reaches the loop's handler, and the line goes on."""

    async def work(turns: Turns) -> None:
        done: list[str] = []
        errors: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["exception"]))

        def fail() -> None:
            raise ValueError("a fault")

        turns.wait(fail)
        turns.wait(lambda: done.append("next"))
        for _ in range(3):
            await asyncio.sleep(0)
        assert done == ["next"]
        assert [str(error) for error in errors] == ["a fault"]

    run(work)


@pytest.mark.parametrize("spent", [0, 1])
def test_without_work_no_turn_follows(spent: int) -> None:
    """A server that has nothing to do does nothing."""

    async def work(turns: Turns) -> None:
        if spent:
            turns.spend(spent)
        await asyncio.sleep(0)
        scheduled = len(asyncio.get_running_loop()._ready)  # type: ignore[attr-defined]
        assert scheduled == 0

    run(work)
