"""Repairs: bring every backend back to its number of replicas.

Rule 1: one task at a time repairs a backend, and none while a change of the backend runs.
Rule 2: repairs never give up. While replicas cannot start, the tries become rarer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Final

from serve_bridge.process.backoff import Backoff

_logger = logging.getLogger("serve_bridge.controller")


class StartFailures:
    """The recent failures of one backend's replicas to start, and the wait before the next try.

    Attributes:
        reason: Why the last replica could not start, or how the last dead replica has ended; "": neither happened.
    """

    RECENT_S: Final = 60.0
    """Seconds after which a failure no longer counts."""
    RETRY: Final = Backoff(shortest_s=0.1, longest_s=30.0)
    MANY: Final = 5
    """Number of failures in a row at which a user should act."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.reason: str = ""
        self._clock = clock
        self._count = 0
        self._last = 0.0
        self._lost_at = 0.0
        self._end = ""

    def note(self, reason: str) -> None:
        """Count one more failure."""
        self._count = self.recent() + 1
        self._last = self._clock()
        self.reason = reason

    def explain(self, reason: str) -> None:
        """Note the *reason* why a replica was lost. The loss itself counts only if `note` is called for it."""
        self.reason, self._end, self._lost_at = reason, reason, self._clock()

    def last_end(self) -> str | None:
        """Return why a replica was lost recently; None if no replica was."""
        return self._end if self._end and self._clock() - self._lost_at <= self.RECENT_S else None

    def is_news(self) -> bool:
        """Whether `reason` is recent."""
        return bool(self.recent() or self.last_end())

    def wait_s(self) -> float:
        """Return the seconds to wait before the next try; 0 without recent failures."""
        return self.RETRY.wait_s(self.recent())

    def are_many(self) -> bool:
        """Whether the number of recent failures asks for an action of the user."""
        return self.recent() >= self.MANY

    def recent(self) -> int:
        """Return the number of recent failures in a row."""
        return self._count if self._clock() - self._last <= self.RECENT_S else 0


class Repairs:
    """The backends under repair.

    Attributes:
        start_failures: The failures of every backend, by its name.
    """

    def __init__(self, repair: Callable[[str], Awaitable[bool]]) -> None:
        """*repair* tries once to repair a backend, and returns whether nothing is left to do."""
        self._repair = repair
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closed = False
        self.start_failures: defaultdict[str, StartFailures] = defaultdict(StartFailures)

    def begin(self, name: str) -> None:
        """Repair backend *name* until nothing is left to do."""
        task = self._tasks.get(name)
        if (task is None or task.done() or task.cancelling()) and not self._closed:
            task = self._tasks[name] = asyncio.get_running_loop().create_task(self._run(name))
            task.add_done_callback(lambda task: self._ended(name, task))

    def interrupt(self, name: str) -> None:
        """Stop the repair of backend *name*, because a change of it begins."""
        if name in self._tasks:
            self._tasks[name].cancel()

    def close(self) -> set[asyncio.Task[None]]:
        """Begin no more repairs; return the running ones, for the caller to end."""
        self._closed = True
        return set(self._tasks.values())

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(name) is task:
            del self._tasks[name]

    async def _run(self, name: str) -> None:
        done = False
        while not done:
            await asyncio.sleep(self.start_failures[name].wait_s())
            try:
                done = await self._repair(name)
            except Exception as error:  # any error: nothing else begins another repair
                reason = str(error) or type(error).__name__
                self.start_failures[name].note(reason)
                _logger.warning("backend %r: a repair failed, and is tried again: %s", name, reason)
