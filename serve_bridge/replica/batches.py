"""The requests of a batch between the queue and the thread that runs them."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import compress
from typing import Any

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.context import request_deadline
from serve_bridge.replica.guarded_calls import too_late
from serve_bridge.user_code.awaitables import is_awaitable
from serve_bridge.user_code.batch_results import batch_results
from serve_bridge.user_code.method import Method


class BatchItem:
    """One request of a batch.

    Attributes:
        value: The request.
        deadline: Its deadline by `time.monotonic()`; None if it has none.
        wanted: Whether its caller still waits for the answer.
    """

    __slots__ = ("deadline", "value", "wanted")

    def __init__(self, value: Any) -> None:
        self.value: Any = value
        self.deadline: float | None = request_deadline.get()
        self.wanted: bool = True


class WantedItems:
    """A batch after its wait for a thread, without the items of callers that have left or whose time is up."""

    __slots__ = ("_items", "_wanted")

    def __init__(self, items: list[BatchItem]) -> None:
        self._items = items
        self._wanted: list[bool] = []

    def call(self, func: Callable[[list[Any]], Any]) -> Any:
        """Return a result or an error for each item; or the awaitable returned by *func*, for the loop to await."""
        now = time.monotonic()
        self._wanted = [item.wanted and (item.deadline is None or now < item.deadline) for item in self._items]
        values = [item.value for item in compress(self._items, self._wanted)]
        results = func(values) if values else ()
        return results if is_awaitable(results) else self.spread(results)

    def spread(self, results: object) -> list[Any]:
        """Return one answer for each item: its part of *results*, or an error if it is not wanted."""
        answers = iter(batch_results(results, sum(self._wanted)))
        return [next(answers) if each else too_late() for each in self._wanted]


def batch_limits(config: BackendConfig) -> tuple[int, float]:
    """Return the most items of a batch, and the seconds that its first item may wait."""
    return config.max_batch_size or 1, config.batch_wait_timeout


def batches_ahead(method: Method, config: BackendConfig) -> int:
    """Return how many full batches may wait for a thread behind the running batch."""
    # With two threads, the waiting batch would run at once, but batches of one method must not overlap.
    return 0 if method.is_async or config.threads > 1 else 1
