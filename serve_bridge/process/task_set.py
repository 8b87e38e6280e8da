"""Background tasks without an awaiting task."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["TaskSet"]

_Result = TypeVar("_Result")


class TaskSet(set[asyncio.Task[Any]]):
    """The running tasks of one owner. A task leaves the set when it ends.

    The event loop holds only weak references to tasks, so a task without an owner can be collected before it ends. The
    set logs the exception of a task at once. Without the set, asyncio would report it when the task is collected.
    """

    def __init__(self, logger: logging.Logger) -> None:
        """Make an empty set; *logger* gets the exceptions of its tasks, as errors."""
        super().__init__()
        self._logger = logger

    def start(
        self, work: Coroutine[Any, Any, _Result], context: contextvars.Context | None = None
    ) -> asyncio.Task[_Result]:
        """Run *work* in a task on the running loop, in *context* or a copy of the current one; return the task."""
        task = asyncio.get_running_loop().create_task(work, context=context)
        self.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._logger.error("a background task failed", exc_info=error)
