"""Futures of work on a loop, for callers that an exception may interrupt at any line."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from serve_bridge.process.unbreakable_locks import UnbreakableCondition

Result = TypeVar("Result")


class LoopFuture(Future[Result]):
    """A future whose waiter an exception may interrupt at any line. The loop can set its result all the same."""

    def __init__(self) -> None:
        super().__init__()
        self._condition = UnbreakableCondition()


def run_on(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Result]) -> LoopFuture[Result]:
    """Run *work* on *loop*, which runs on another thread. The cancellation of the returned future cancels *work*."""
    future: LoopFuture[Result] = LoopFuture()

    def begin() -> None:
        task = loop.create_task(work)
        task.add_done_callback(ended)
        future.add_done_callback(lambda _: _cancel(task, loop) if future.cancelled() else None)

    def ended(task: asyncio.Task[Result]) -> None:
        if task.cancelled():
            future.cancel()
        # Read in any case: asyncio logs an error that nothing has read, and the caller may have been interrupted.
        error = None if task.cancelled() else task.exception()
        if not future.set_running_or_notify_cancel():
            return
        if error is None:
            future.set_result(task.result())
        else:
            future.set_exception(error)

    loop.call_soon_threadsafe(begin)
    return future


def _cancel(task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop) -> None:
    if not task.done():
        loop.call_soon_threadsafe(task.cancel)
