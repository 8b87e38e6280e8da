"""A set of background tasks keeps them, and logs how they fail."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from serve_bridge.process.task_set import TaskSet

LOGGER = logging.getLogger("serve_bridge.tests.task_set")


def test_a_task_is_in_the_set_until_it_ends() -> None:
    """An owner counts its running tasks with `len`, and cancels them one by one."""

    async def main() -> None:
        tasks = TaskSet(LOGGER)
        may_end = asyncio.Event()
        task = tasks.start(may_end.wait())
        assert list(tasks) == [task]
        may_end.set()
        assert await task is True
        await asyncio.sleep(0)
        assert not tasks

    asyncio.run(main())


def test_a_task_that_waits_for_its_own_future_is_not_collected() -> None:
    """Task and future refer to each other alone, and the loop to neither: only the set keeps both."""

    async def main() -> None:
        tasks = TaskSet(LOGGER)
        ended = asyncio.Event()

        async def wait() -> None:
            try:
                await asyncio.Future[None]()
            finally:
                ended.set()

        tasks.start(wait())
        await asyncio.sleep(0)
        gc.collect()
        await asyncio.sleep(0)
        assert len(tasks) == 1
        assert not ended.is_set()
        tasks.pop().cancel()
        await ended.wait()

    asyncio.run(main())


def test_the_exception_of_a_task_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The record has the traceback."""

    async def main() -> None:
        tasks = TaskSet(LOGGER)

        async def fail() -> None:
            raise LookupError("no such thing")

        await asyncio.wait([tasks.start(fail())])
        await asyncio.sleep(0)
        (record,) = caplog.records
        assert record.levelno == logging.ERROR
        assert record.message == "a background task failed"
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], LookupError)
        assert not tasks

    asyncio.run(main())


def test_a_cancelled_task_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The owner has cancelled it on purpose."""

    async def main() -> None:
        tasks = TaskSet(LOGGER)
        task = tasks.start(asyncio.sleep(60))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(0)
        assert not caplog.records
        assert not tasks

    asyncio.run(main())
