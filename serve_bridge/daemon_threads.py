"""A pool of daemon threads.

`concurrent.futures.ThreadPoolExecutor` is all but right; its threads, though, are waited for when the interpreter
exits, and user code that never returns would keep a process from ever ending.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

_Result = TypeVar("_Result")
_Work = tuple[Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class DaemonThreads(Executor):
    """Runs calls on up to *count* threads, in the order in which they were submitted."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._work: deque[_Work] = deque()
        self._changed = threading.Condition()
        self._threads = 0
        self._idle = 0
        self._closed = False

    def submit(self, fn: Callable[..., _Result], /, *args: Any, **kwargs: Any) -> Future[_Result]:
        """Run ``fn(*args, **kwargs)`` on a thread, when it is its turn.

        Raises:
            RuntimeError: The pool was shut down.
        """
        future: Future[_Result] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("the threads were shut down")
            self._work.append((future, fn, args, kwargs))
            if self._idle < len(self._work) and self._threads < self._count:
                self._threads += 1
                threading.Thread(target=self._run, name=f"{self._name}-{self._threads}", daemon=True).start()
            self._changed.notify()
        return future

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:
        """Take nothing new; threads end once they have nothing to do. It never waits, whatever *wait* says."""
        with self._changed:
            self._closed = True
            while cancel_futures and self._work:
                self._work.popleft()[0].cancel()
            self._changed.notify_all()

    def _run(self) -> None:
        while (work := self._next()) is not None:
            future, fn, args, kwargs = work
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # the future's owner is the one to know it
                future.set_exception(error)
            del work, future, fn, args, kwargs  # an idle thread holds nothing alive

    def _next(self) -> _Work | None:
        with self._changed:
            self._idle += 1
            try:
                while not self._work and not self._closed:
                    self._changed.wait()
                return self._work.popleft() if self._work else None
            finally:
                self._idle -= 1
