"""A thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import os
import threading
import time
from collections.abc import Awaitable, Callable
from queue import SimpleQueue
from typing import Final, TypeVar

import uvloop

from serve_bridge.process.loop_future import run_on
from serve_bridge.process.monkey_patches import check_not_patched

_Result = TypeVar("_Result")
DESCRIPTORS: Final = 12
"""Upper limit for the file descriptors of a loop without connections: pipes for signals and threads, and epoll."""


class _Start:
    """The state that a thread shares with its starter.

    Attributes:
        loop: The loop. The thread makes it, because an exception in the starter could lose an open loop.
        made: Has one item once the thread has tried to make the loop: None, or the error.
        is_wanted: Whether the loop shall run on.
        is_ending: Whether the loop was stopped. Only the thread of the loop uses it.
    """

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        # Written in C: an exception in the starter cannot leave its lock locked, as it can that of an Event.
        self.made: SimpleQueue[BaseException | None] = SimpleQueue()
        self.is_wanted = True
        self.is_ending = False

    def end_soon(self) -> None:
        """Stop the loop, on whose thread this runs, after its connections have closed."""
        assert self.loop is not None
        self.loop.call_later(0.01, self._end)

    def _end(self) -> None:
        if not self.is_ending:  # a second stop would interrupt the end of the loop's tasks
            self.is_ending = True
            assert self.loop is not None
            self.loop.stop()


class LoopThread:
    """A daemon thread with an event loop of its own. `stop` ends it, and so does the deletion of this object.

    The deletion ends it because the time limit of a task queue can raise at any line, also before the caller has the
    object.
    """

    def __init__(self, name: str) -> None:
        """Start the thread.

        Raises:
            ConfigError: gevent or eventlet has replaced the threads, so the loop would block the whole process.
            OSError: The process lacks file descriptors for a loop.
        """
        check_not_patched()
        self._process = os.getpid()
        self._start = start = _Start()
        # The context is empty, because a replica must not inherit context variables from the thread that starts it.
        context = contextvars.Context()
        # The thread has no reference to this object, because it would keep the object alive.
        self._thread = threading.Thread(target=context.run, args=(_run, start), name=name, daemon=True)
        try:
            self._thread.start()
            error = start.made.get()
        except BaseException:  # such as the time limit of a task queue, during the wait for the thread
            with contextlib.suppress(RuntimeError):  # the thread has closed the loop
                self.stop()
            raise
        if error is not None:
            raise error
        assert start.loop is not None
        self.loop = start.loop

    def submit(self, work: Callable[[], Awaitable[_Result]]) -> concurrent.futures.Future[_Result]:
        """Run *work* on the loop, in an empty context, and return its future."""

        async def run() -> _Result:
            return await work()

        # Tasks started by *work* may live as long as the loop, so they must not inherit the context of one request. A
        # replica would find the request's thread for synchronous code in that context.
        return contextvars.Context().run(run_on, self.loop, run())

    def stop(self) -> None:
        """End the loop soon. It can still close the connections that are closing now. `stop` does not wait."""
        self._start.is_wanted = False
        loop = self._start.loop
        if loop is not None:
            loop.call_soon_threadsafe(self._start.end_soon)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, RuntimeError):  # `__init__` has failed, or the loop is closed
            if self._process == os.getpid():  # a forked child has the object, but not the thread
                self.stop()

    def join(self, timeout_s: float) -> None:
        """Wait for the thread to end."""
        self._thread.join(timeout_s)

    def used_s(self) -> float | None:
        """Return the processor time of the thread in seconds; None if it has ended."""
        return thread_used_s(self._thread)


def _run(start: _Start) -> None:
    try:
        _check_room()
        loop = uvloop.new_event_loop()
    except BaseException as error:
        start.made.put(error)
        return
    start.loop = loop
    start.made.put(None)
    try:
        asyncio.set_event_loop(loop)
        # `stop` changes `is_wanted` and then reads `loop`. So either this thread sees the change, or `stop` the loop.
        if not start.is_wanted:
            start.end_soon()
        loop.run_forever()
        _cancel_all(loop)
    finally:
        loop.close()


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        # There is no timeout. Closing the loop during hanging user code would stop the code halfway, with many log
        # records. If it never ends, this thread does not either, and a daemon thread does not keep the process alive.
        loop.run_until_complete(asyncio.wait(tasks))
    loop.run_until_complete(loop.shutdown_asyncgens())


def thread_used_s(thread: threading.Thread) -> float | None:
    """Return the processor time of *thread* in seconds; None if it has ended, or the system does not know."""
    if not thread.is_alive() or thread.ident is None or not hasattr(time, "pthread_getcpuclockid"):
        return None
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


def _check_room() -> None:
    """Raise OSError if the process lacks file descriptors for a loop. libuv would abort the process in this case."""
    opened: list[int] = []
    try:
        for _ in range(DESCRIPTORS):
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    finally:
        for descriptor in opened:
            os.close(descriptor)
