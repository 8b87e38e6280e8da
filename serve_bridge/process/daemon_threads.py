"""A pool of daemon threads.

The interpreter waits at its exit for the threads of `concurrent.futures.ThreadPoolExecutor`. User code that never
returns would therefore prevent the end of the process.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from serve_bridge.process.monkey_patches import check_not_patched
from serve_bridge.process.unbreakable_locks import UnbreakableCondition

Result = TypeVar("Result")
_Work = tuple[int, Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class _Worker:
    """One thread of a pool: its pinned work, and the number of its pins."""

    __slots__ = ("pins", "work")

    def __init__(self) -> None:
        self.pins = 0
        self.work: deque[_Work] = deque()


class DaemonThreads(Executor):
    """Runs calls on up to *count* threads, in the order of their submission.

    With *idle_s*, a thread ends after so many seconds without work.
    """

    def __init__(self, count: int, name: str, *, idle_s: float | None = None) -> None:
        self._count = count
        self._name = name
        self._idle_s = idle_s
        self._work: deque[_Work] = deque()
        self._changed = UnbreakableCondition()
        self._workers: dict[int, _Worker] = {}
        self._threads = 0
        self._idle = 0
        self._pinned = 0
        self._submitted = 0
        self._closed = self._cancelled = False

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Queue ``fn(*args, **kwargs)`` for the next free thread.

        Raises:
            RuntimeError: The pool was shut down.
            ConfigError: gevent or eventlet has replaced the threads of this process.
        """
        return self._submit(None, fn, args, kwargs)

    def pin(self, thread: int | None = None) -> Pin:
        """Return a pin, which runs all its calls on one thread of the pool.

        It is the thread with the identifier *thread*. Without one, it is the thread of the pin's first call.
        """
        with self._changed:
            worker = None if thread is None else self._workers.get(thread)
            if worker is not None:
                worker.pins += 1
        return Pin(self, worker)

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:
        """Refuse new calls, except those of pins. The threads end when the queue is empty. *wait* is ignored.

        With *cancel_futures*, the queued calls are cancelled, and pins refuse new calls too.
        """
        with self._changed:
            self._closed = True
            if cancel_futures:
                self._cancelled = True
                for queue in (self._work, *(worker.work for worker in self._workers.values())):
                    while queue:
                        queue.popleft()[1].cancel()
            self._changed.notify_all()

    def _submit(
        self, worker: _Worker | None, fn: Callable[..., Result], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[Result]:
        if not self._threads:
            check_not_patched()
        future: Future[Result] = Future()
        with self._changed:
            if self._cancelled or (self._closed and worker is None):
                raise RuntimeError("the threads were shut down")
            self._submitted += 1
            work = self._submitted, future, fn, args, kwargs
            if worker is not None:
                worker.work.append(work)
                self._pinned += 1
                self._changed.notify_all()  # all, because only one certain thread can take the call
                return future
            self._work.append(work)
            if self._idle < len(self._work) + self._pinned and self._threads < self._count:
                self._threads += 1
                threading.Thread(target=self._run, name=f"{self._name}-{self._threads}", daemon=True).start()
            self._changed.notify()
        return future

    def _settle(self, pin: Pin) -> None:
        """Tie *pin* to the calling thread, if it has no thread."""
        with self._changed:
            if pin._worker is None:
                pin._worker = self._workers[threading.get_ident()]
                pin._worker.pins += 1

    def _release(self, worker: _Worker) -> None:
        with self._changed:
            worker.pins -= 1
            self._changed.notify_all()

    def _run(self) -> None:
        worker = _Worker()
        with self._changed:
            self._workers[threading.get_ident()] = worker
        while (work := self._next(worker)) is not None:
            _, future, fn, args, kwargs = work
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # the owner of the future gets it
                future.set_exception(error)
            del work, future, fn, args, kwargs  # otherwise an idle thread keeps these objects alive

    def _next(self, worker: _Worker) -> _Work | None:
        late = False
        with self._changed:
            self._idle += 1
            try:
                while True:
                    own, shared = worker.work, self._work
                    if own and not (shared and shared[0][0] < own[0][0]):  # the older call first
                        self._pinned -= 1
                        return own.popleft()
                    if shared:
                        return shared.popleft()
                    if (self._closed or late) and (self._cancelled or not worker.pins):
                        del self._workers[threading.get_ident()]  # under the lock, so no call can pin the thread now
                        self._threads -= 1
                        return None
                    late = not self._changed.wait(self._idle_s)
            finally:
                self._idle -= 1


class Pin:
    """Runs its calls on one thread of a pool, until `release`."""

    __slots__ = ("_pool", "_worker")

    def __init__(self, pool: DaemonThreads, worker: _Worker | None) -> None:
        self._pool = pool
        self._worker = worker

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """See `DaemonThreads.submit`. Calls before the start of the first call may run on another thread."""
        if self._worker is None:
            return self._pool.submit(self._settle, fn, args, kwargs)
        return self._pool._submit(self._worker, fn, args, kwargs)

    def release(self) -> None:
        """Release the thread. A second call does nothing."""
        worker, self._worker = self._worker, None
        if worker is not None:
            self._pool._release(worker)

    def _settle(self, fn: Callable[..., Result], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Result:
        self._pool._settle(self)
        return fn(*args, **kwargs)
