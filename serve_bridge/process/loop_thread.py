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
from typing import Final, TypeVar

import uvloop

from serve_bridge.process.monkey_patches import check_not_patched

_Result = TypeVar("_Result")
DESCRIPTORS: Final = 12
"""How many a loop takes at most before it has a connection: two pipes for signals, one for other threads, epoll."""


class LoopThread:
    """A daemon thread with an event loop of its own; it ends with this object, if it was not stopped before.

    An exception that arrives at any line, such as the time limit of a task queue, may lose the object as it is made.
    """

    def __init__(self, name: str) -> None:
        """Start the thread.

        Raises:
            ConfigError: The process has no real threads, so the loop would block all of it.
            OSError: It lacks file descriptors for a loop.
        """
        check_not_patched()
        _check_room()
        self._process = os.getpid()
        self.loop = uvloop.new_event_loop()
        # An empty context: what the thread that starts a replica knows is not the replica's.
        context = contextvars.Context()
        # The thread knows the loop and not this object, which it would keep.
        self._thread = threading.Thread(target=context.run, args=(_run, self.loop), name=name, daemon=True)
        try:
            self._thread.start()
        except BaseException:  # such as the time limit of a task queue, which may come while it waits for the thread
            self.stop()
            raise

    def submit(self, work: Callable[[], Awaitable[_Result]]) -> concurrent.futures.Future[_Result]:
        """Run *work* on the loop, in an empty context; return its future."""

        async def run() -> _Result:
            return await work()

        # What *work* starts lives as long as the loop, so it must not inherit the context of the request that started
        # it: a replica would find the request's thread for synchronous code in it.
        return contextvars.Context().run(asyncio.run_coroutine_threadsafe, run(), self.loop)

    def stop(self) -> None:
        """Let the loop end, once what it has begun to close is closed; does not wait."""
        loop = self.loop
        loop.call_soon_threadsafe(lambda: loop.call_later(0.01, loop.stop))

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, RuntimeError):  # it was never whole, or the loop is closed
            if self._process == os.getpid():  # a forked child has the object, and not the thread
                self.stop()

    def join(self, timeout_s: float) -> None:
        """Wait for the thread to end."""
        self._thread.join(timeout_s)

    def used_s(self) -> float | None:
        """Return how many seconds of processor time the thread has used; None if it has ended."""
        return thread_used_s(self._thread)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        _cancel_all(loop)
    finally:
        loop.close()


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        # Without a limit: to close the loop under user code that hangs would break it off half-way, noisily. This
        # thread is a daemon, so what never ends is left behind with it.
        loop.run_until_complete(asyncio.wait(tasks))
    loop.run_until_complete(loop.shutdown_asyncgens())


def thread_used_s(thread: threading.Thread) -> float | None:
    """Return how many seconds of processor time *thread* has used; None if it has ended, or the system cannot tell."""
    if not thread.is_alive() or thread.ident is None or not hasattr(time, "pthread_getcpuclockid"):
        return None
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


def _check_room() -> None:
    """Raise OSError if a loop has not room for its descriptors: libuv would end the process (abort) then."""
    opened: list[int] = []
    try:
        for _ in range(DESCRIPTORS):
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    finally:
        for descriptor in opened:
            os.close(descriptor)
