"""A queue which runs several calls of user code as one batch.

Rule 1: the wait counts from the first item of a batch. A full batch does not wait.
Rule 2: when a caller leaves, its item leaves the queue. The other items are not affected.
Rule 3: a batch runs with the context variables of its first item, the call waiting longest. Its deadline is the
        latest of its items. Its request id is the one shared by all items; if they differ, it has none.
Rule 4: an item whose deadline passes before its batch begins fails alone. The batch begins without it.
Rule 5: a queue belongs to one event loop. It holds only admitted calls, so the admission limits its length.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from serve_bridge.context import request_deadline, running_request
from serve_bridge.errors import ConfigError, DeadlineExceeded
from serve_bridge.user_code.batch_results import batch_results

__all__ = [
    "BatchQueue",
]


RunBatch = Callable[[list[Any]], Awaitable[Any]]


class _Call:
    """One caller's item in the queue or in a batch."""

    __slots__ = ("answer", "arrived", "batch", "context", "deadline", "item", "request_id")

    def __init__(self, item: Any, answer: asyncio.Future[Any], arrived: float) -> None:
        self.item = item
        self.answer = answer
        self.arrived = arrived
        self.deadline = request_deadline.get()
        self.request_id = running_request.get()
        self.context = contextvars.copy_context()
        self.batch: _Batch | None = None


class _Batch:
    """Calls running as one, and their task."""

    __slots__ = ("calls", "task")

    def __init__(self) -> None:
        self.calls: list[_Call] = []
        self.task: asyncio.Task[None] | None = None

    @property
    def deadline(self) -> float | None:
        """The latest deadline of its calls; None if a call has none."""
        deadlines = [call.deadline for call in self.calls]
        return None if None in deadlines else max(deadlines)  # type: ignore[type-var]  # mypy: there is no None

    @property
    def request_id(self) -> str | None:
        """The request id of all calls; None if they belong to several requests."""
        first = self.calls[0].request_id
        return first if all(call.request_id == first for call in self.calls) else None

    def succeed(self, results: Iterable[Any]) -> None:
        for call, result in zip(self.calls, results, strict=True):
            if isinstance(result, BaseException):
                _fail(call.answer, result)
            elif not call.answer.done():
                call.answer.set_result(result)

    def fail(self, error: BaseException) -> None:
        for call in self.calls:
            _fail(call.answer, error)

    def cancel_if_abandoned(self) -> None:
        if self.task is not None and all(call.answer.done() for call in self.calls):
            self.task.cancel()


class BatchQueue:
    """Gathers items and runs them in batches.

    Args:
        run: Takes the items of a batch and returns one result for each. It is cancelled when all its callers have left.
        max_batch_size: Upper limit for the items of a batch, at least 1.
        wait_timeout_s: Seconds for which an item may wait for more items. 0: a batch takes the items of one loop turn.
        max_concurrent_batches: Upper limit for batches running at once.
        on_idle: Called when the queue is empty and no batch runs.

    Attributes:
        ahead: Full batches that may start above this limit. They wait in *run* for a thread, which then goes from one
            batch to the next without waiting for the loop.

    Raises:
        ConfigError: A limit is out of range; the message names it. It is a ValueError.
    """

    def __init__(
        self,
        run: RunBatch,
        max_batch_size: int,
        wait_timeout_s: float,
        *,
        max_concurrent_batches: int = 1,
        on_idle: Callable[[], object] | None = None,
    ) -> None:
        check_limits(max_batch_size, wait_timeout_s)
        self._on_idle = on_idle
        self._run_items = run
        self._max_batch_size = max_batch_size
        self._wait_timeout_s = wait_timeout_s
        self._max_concurrent_batches = max_concurrent_batches
        self.ahead = 0
        self._waiting: OrderedDict[asyncio.Future[Any], _Call] = OrderedDict()
        self._running: set[_Batch] = set()
        self._starting = False
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Return how many items wait for a batch."""
        return len(self._waiting)

    async def submit(self, item: Any) -> Any:
        """Return the result of *item* once its batch has run.

        Raises:
            DeadlineExceeded: The deadline of the running request passed before a batch took the item.
            TypeError: The batch returned something other than a list, tuple, array or generator.
            ValueError: The batch returned another number of results than it had items.
            BaseException: The batch raised it, or returned it as the result of this item.
        """
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        call = self._waiting[answer] = _Call(item, answer, loop.time())
        self._advance()
        try:
            return await answer
        finally:
            if answer.cancelled():
                self._leave(call)
            # The traceback of a failure refers to this frame. Without `del`, the two would keep each other alive.
            del answer, call

    def reconfigure(self, max_batch_size: int, wait_timeout_s: float) -> None:
        """Change the limits, for waiting items too. Call this on the loop of the queue.

        Raises:
            ConfigError: A limit is out of range; the old limits stay.
        """
        check_limits(max_batch_size, wait_timeout_s)
        self._max_batch_size = max_batch_size
        self._wait_timeout_s = wait_timeout_s
        if self._waiting:
            self._stop_timer()
            self._advance()

    def _advance(self) -> None:
        """Start the next batch if it is due; otherwise set the timer for it."""
        if not self._waiting:
            self._stop_timer()
            if self._on_idle is not None and not self._running:
                self._on_idle()
            return
        if not self._may_start():
            return
        first = next(iter(self._waiting.values()))
        if len(self._waiting) >= self._max_batch_size or not self._wait_timeout_s:
            self._start(first.context)
            return
        loop = asyncio.get_running_loop()
        due = first.arrived + self._wait_timeout_s
        if due <= loop.time():
            self._start(first.context)
        elif self._timer is None:
            self._timer = loop.call_at(due, self._expire, first)

    def _expire(self, call: _Call) -> None:
        self._timer = None
        # A timer may fire a little early, so the clock is not read again.
        if self._waiting.get(call.answer) is call and self._may_start():
            self._start(call.context)
        else:
            self._advance()

    def _may_start(self) -> bool:
        # A starting batch has not taken its items yet: they would count for a second batch.
        full = len(self._waiting) >= self._max_batch_size
        return not self._starting and len(self._running) < self._max_concurrent_batches + (full and self.ahead)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self, context: contextvars.Context) -> None:
        self._stop_timer()
        batch = _Batch()
        self._running.add(batch)
        self._starting = True
        batch.task = asyncio.get_running_loop().create_task(self._run(batch), context=context)

    async def _run(self, batch: _Batch) -> None:
        # Items are taken here, not in `_start`, so a batch has all calls of this turn of the loop but those that left.
        self._take(batch)
        self._starting = False
        self._advance()
        try:
            if batch.calls:
                request_deadline.set(batch.deadline)
                running_request.set(batch.request_id)
                results = await self._run_items([call.item for call in batch.calls])
                batch.succeed(batch_results(results, len(batch.calls)))
        except BaseException as error:  # any exception of user code goes to the callers, not to the loop
            batch.fail(error)
        finally:
            self._running.discard(batch)
            self._advance()

    def _take(self, batch: _Batch) -> None:
        while self._waiting and len(batch.calls) < self._max_batch_size:
            answer, call = self._waiting.popitem(last=False)
            if answer.cancelled():
                continue
            if call.deadline is not None and time.monotonic() >= call.deadline:
                _fail(answer, DeadlineExceeded("the time was up before a batch was free", "no"))
                continue
            call.batch = batch
            batch.calls.append(call)

    def _leave(self, call: _Call) -> None:
        if call.batch is not None:
            call.batch.cancel_if_abandoned()
        elif self._waiting.pop(call.answer, None) is not None:
            self._stop_timer()
            self._advance()


def _fail(answer: asyncio.Future[Any], error: BaseException) -> None:
    if answer.done():
        return
    if isinstance(error, asyncio.CancelledError):
        answer.cancel()
    elif isinstance(error, StopIteration | GeneratorExit):  # a future, or a task waiting for it, cannot raise these
        wrapped = RuntimeError(f"batched code raised {type(error).__name__}")
        wrapped.__cause__ = error
        answer.set_exception(wrapped)
    else:
        answer.set_exception(error)


def check_limits(max_batch_size: object, wait_timeout_s: object) -> None:
    if not isinstance(max_batch_size, int) or isinstance(max_batch_size, bool) or max_batch_size < 1:
        raise ConfigError(f"max_batch_size must be an int of at least 1, got {max_batch_size!r}")
    if not isinstance(wait_timeout_s, int | float) or isinstance(wait_timeout_s, bool):
        raise ConfigError(f"the batch's wait must be a number of seconds, got {wait_timeout_s!r}")
    if not (0 <= wait_timeout_s < math.inf):
        raise ConfigError(f"the batch's wait must be 0 or more seconds and finite, got {wait_timeout_s!r}")
