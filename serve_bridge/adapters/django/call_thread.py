"""The thread in which one asynchronous call of a backend runs its synchronous code, the ORM included.

asgiref runs the `sync_to_async` code of a process in one thread, unless a `ThreadSensitiveContext` says otherwise. With
that one thread, concurrent calls would wait for each other. A call could even wait for itself, because a synchronous
view or middleware holds the thread while it waits for the answer of the call.

Rule 1: every call has a thread of its own. The first synchronous code of the call starts it.
Rule 2: the thread closes its database connections when the call ends, and when it has been idle for `IDLE_S`: an open
        WebSocket keeps no connection that it does not use.
Rule 3: the end of a call never waits for running synchronous code.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any, Final, TypeVar

from asgiref.sync import AsyncToSync, SyncToAsync, ThreadSensitiveContext
from django.db import Error as DatabaseError
from django.db import connections

from serve_bridge.adapters.django import testcase_connections

IDLE_S: Final = 1.0
"""Seconds without work after which the thread closes its connections and ends; further work starts another thread."""

_Result = TypeVar("_Result")
_Work = tuple[Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class CallThread(Executor):
    """Runs the `sync_to_async` code of one call, one piece after another."""

    def __init__(self) -> None:
        self._work: deque[_Work] = deque()
        self._changed = threading.Condition()
        self._gone: Future[None] | None = None  # done when the running thread has ended
        self._is_busy = False
        self._has_ended = False

    def enter(self) -> None:
        """Become the thread of the running task, and of all tasks it starts from now on."""
        context = ThreadSensitiveContext()
        # The context is never left, because background tasks outlive their call and must not run in the thread of the
        # process. It is not entered by `async with`, because the exit would wait for running synchronous code.
        SyncToAsync.thread_sensitive_context.set(context)
        SyncToAsync.context_to_thread_executor[context] = self
        # asgiref prefers the thread of a synchronous caller in the inherited context. That thread may be waiting for
        # this very call, which would be a deadlock.
        if getattr(AsyncToSync.executors, "current", None) is not None:
            AsyncToSync.executors.current = None

    def submit(self, fn: Callable[..., _Result], /, *args: Any, **kwargs: Any) -> Future[_Result]:
        """Run `fn(*args, **kwargs)` in the thread, after the work that was submitted before."""
        future: Future[_Result] = Future()
        with self._changed:
            self._work.append((future, fn, args, kwargs))
            if self._gone is None:
                self._gone = Future()
                self._gone.set_running_or_notify_cancel()  # so that a cancelled waiter cannot cancel it
                threading.Thread(target=self._run, args=(self._gone,), name="serve_bridge-sync", daemon=True).start()
            self._changed.notify()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the thread end as soon as it has no work; does not wait for that."""
        with self._changed:
            self._has_ended = True
            self._changed.notify()

    async def end(self) -> None:
        """End the call. Wait until its connections are closed, unless synchronous code is running or waiting."""
        gone = self._gone
        if gone is None:
            return
        self.shutdown()
        if not (self._is_busy or self._work):
            await asyncio.wrap_future(gone)

    def _run(self, gone: Future[None]) -> None:
        try:
            taken = testcase_connections.take().values()

            def own() -> list[Any]:
                return [each for each in connections.all(initialized_only=True) if each not in taken]

            while (work := self._next(own)) is not None:
                self._do(*work)
                del work  # so that an idle thread keeps no arguments alive
            for connection in own():
                with suppress(DatabaseError):  # the database server has closed the connection
                    connection.close()
        finally:
            gone.set_result(None)

    def _do(self, future: Future[Any], fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = fn(*args, **kwargs)
        except BaseException as error:
            self._is_busy = False
            future.set_exception(error)
        else:
            # Before the caller knows the result: a caller that then ends its call finds an idle thread.
            self._is_busy = False
            future.set_result(result)

    def _next(self, own: Callable[[], list[Any]]) -> _Work | None:
        """Return the next piece of work; None if the thread must end.

        *own* returns the connections of the thread. The thread stays while one of them is in a transaction.
        """
        with self._changed:
            self._is_busy = False
            while not self._work:
                has_news = self._changed.wait_for(lambda: self._work or self._has_ended, IDLE_S)
                may_end = self._has_ended or not (has_news or any(each.in_atomic_block for each in own()))
                if may_end and not self._work:
                    self._gone = None
                    return None
            self._is_busy = True
            return self._work.popleft()
