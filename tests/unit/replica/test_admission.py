"""The slots of a replica, and the queue of Ray calls for them."""

from __future__ import annotations

import asyncio

import pytest

from serve_bridge.errors import DeadlineExceeded
from serve_bridge.replica.admission import Admission

LONG_S = 60.0


async def waiting(admission: Admission, count: int, taken: list[int]) -> list[asyncio.Task[None]]:
    """Start *count* calls that wait for a slot; each one notes its number when it has one."""

    async def take(number: int) -> None:
        await admission.take("digits", LONG_S)
        taken.append(number)

    tasks = [asyncio.create_task(take(number)) for number in range(count)]
    await asyncio.sleep(0)
    return tasks


def test_waiting_calls_get_slots_in_the_order_of_their_arrival() -> None:
    """Each release lets one of them begin."""

    async def scenario() -> None:
        admission, taken = Admission(1), list[int]()
        await admission.take("digits", LONG_S)
        tasks = await waiting(admission, 3, taken)
        for expected in ([0], [0, 1], [0, 1, 2]):
            admission.release()
            await asyncio.sleep(0)
            assert (taken, admission.in_flight) == (expected, 1)
        await asyncio.gather(*tasks)

    asyncio.run(scenario())


def test_a_higher_limit_admits_waiting_calls() -> None:
    """They do not wait for the end of another call."""

    async def scenario() -> None:
        admission, taken = Admission(1), list[int]()
        await admission.take("digits", LONG_S)
        tasks = await waiting(admission, 3, taken)
        admission.change_limit(3)
        await asyncio.sleep(0)
        assert (taken, admission.in_flight, len(admission.queue)) == ([0, 1], 3, 1)
        admission.release()
        await asyncio.gather(*tasks)

    asyncio.run(scenario())


def test_a_call_without_a_slot_in_time_has_not_run() -> None:
    """It takes no slot from the calls behind it."""

    async def scenario() -> None:
        admission = Admission(1)
        await admission.take("digits", LONG_S)
        with pytest.raises(DeadlineExceeded) as caught:
            await admission.take("digits", 0.01)
        assert caught.value.executed == "no"
        admission.release()
        assert admission.in_flight == 0

    asyncio.run(scenario())


def test_a_call_cancelled_with_its_slot_gives_it_back() -> None:
    """The slot and the cancellation come in the same turn of the loop."""

    async def scenario() -> None:
        admission, taken = Admission(1), list[int]()
        await admission.take("digits", LONG_S)
        first, second = await waiting(admission, 2, taken)
        admission.release()
        first.cancel()
        await second
        assert (taken, admission.in_flight, first.cancelled()) == ([1], 1, True)

    asyncio.run(scenario())
