"""Django: the thread of an asynchronous call, in which its synchronous code runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from asgiref.sync import async_to_sync, sync_to_async

from serve_bridge.adapters.django.surroundings import DjangoSurroundings
from tests.support.waiting import wait_until_equal


@pytest.fixture
def surroundings() -> Iterator[DjangoSurroundings]:
    """What calls run in; after the test the threads of all calls have ended."""
    yield DjangoSurroundings()
    wait_until_equal(_threads, [])


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "serve_bridge-sync"]


current = sync_to_async(threading.current_thread)


async def _own_thread(surroundings: DjangoSurroundings) -> threading.Thread:
    async with surroundings.around_async():
        first, second = await current(), await current()
        assert first is second
        return first


def test_each_call_has_a_thread(surroundings: DjangoSurroundings) -> None:
    """All synchronous code of a call runs in one, and of two calls in two."""

    async def calls() -> list[threading.Thread]:
        return await asyncio.gather(*(_own_thread(surroundings) for _ in range(2)))

    assert len(set(asyncio.run(calls()))) == 2


def test_a_call_without_synchronous_code_has_none(surroundings: DjangoSurroundings) -> None:
    """Neither when it begins nor when it ends."""

    async def call() -> None:
        async with surroundings.around_async():
            assert _threads() == []

    asyncio.run(call())
    assert _threads() == []


def test_a_call_inherits_no_thread(surroundings: DjangoSurroundings) -> None:
    """Not even within another call, or where a synchronous caller waits for it."""

    async def outer() -> set[threading.Thread]:
        async with surroundings.around_async():
            return {await current(), await asyncio.create_task(_own_thread(surroundings))}

    assert len(async_to_sync(outer)()) == 2


def test_the_end_of_a_call_waits_for_no_code_that_runs(surroundings: DjangoSurroundings) -> None:
    """Such code may itself wait for what comes after the call."""
    after = threading.Event()

    async def call() -> bool:
        async with surroundings.around_async():
            work = asyncio.create_task(sync_to_async(after.wait)(30))
            await asyncio.sleep(0)
        after.set()
        return await work

    assert asyncio.run(call())


def test_a_cancelled_call_leaves_its_thread(surroundings: DjangoSurroundings) -> None:
    """The code that runs in it runs on."""
    began, after = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        after.wait(30)

    async def call() -> None:
        async with surroundings.around_async():
            await sync_to_async(work)()

    async def cancelled() -> None:
        task = asyncio.create_task(call())
        await asyncio.to_thread(began.wait, 30)
        task.cancel()
        await asyncio.wait([task], timeout=30)
        assert task.cancelled()
        assert not after.is_set()
        after.set()

    asyncio.run(cancelled())


def test_what_a_call_has_begun_goes_on_after_it(surroundings: DjangoSurroundings) -> None:
    """In a thread of the call, which ends again."""

    async def later(ended: asyncio.Event) -> threading.Thread:
        await ended.wait()
        return await current()

    async def call() -> str:
        ended = asyncio.Event()
        async with surroundings.around_async():
            task = asyncio.create_task(later(ended))
        ended.set()
        return (await task).name

    assert asyncio.run(call()) == "serve_bridge-sync"


def test_an_idle_thread_ends(surroundings: DjangoSurroundings) -> None:
    """While its call goes on, which gets another one when it needs it."""

    async def call() -> set[threading.Thread]:
        async with surroundings.around_async():
            first = await current()
            await asyncio.to_thread(first.join, 30)
            return {first, await current()}

    assert len(asyncio.run(call())) == 2


def test_an_error_comes_back(surroundings: DjangoSurroundings) -> None:
    """As it was raised."""

    def failing() -> None:
        raise LookupError("own")

    async def call() -> None:
        async with surroundings.around_async():
            await sync_to_async(failing)()

    with pytest.raises(LookupError, match="own"):
        asyncio.run(call())
