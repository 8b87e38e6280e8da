"""Repairs: what brings every backend back to its number of replicas, and how patiently.

Rule 1: a backend is repaired by one task at a time, and by none while somebody changes it.
Rule 2: nothing gives up. While replicas cannot start, the tries become rarer.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Final

from serve_bridge.process.backoff import Backoff


class Setbacks:
    """How often a backend's replicas could not start of late, and how long to wait before the next try.

    Attributes:
        reason: Why the last one could not, or how the last replica that died has ended; empty if none.
    """

    FORGIVEN_S: Final = 60.0
    RETRY: Final = Backoff(shortest_s=0.1, longest_s=30.0)
    MANY: Final = 5

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.reason = ""
        self._clock = clock
        self._count = 0
        self._last = 0.0
        self._told = 0.0
        self._end = ""

    def note(self, reason: str) -> None:
        """Count one more."""
        self._count = self.recent() + 1
        self._last = self._clock()
        self.reason = reason

    def tell(self, reason: str) -> None:
        """Give the *reason* why a replica was lost, which may have been counted already."""
        self.reason, self._end, self._told = reason, reason, self._clock()

    def last_end(self) -> str | None:
        """Return why a replica was lost of late; None if none was."""
        return self._end if self._end and self._clock() - self._told <= self.FORGIVEN_S else None

    def is_news(self) -> bool:
        """Whether `reason` is recent."""
        return bool(self.recent() or self.last_end())

    def delay_s(self) -> float:
        """Return how long the next try should wait: nothing at first, then ever longer, with jitter."""
        return self.RETRY.wait_s(self.recent())

    def failed(self) -> bool:
        """Whether there were so many, one soon after the other, that somebody should look."""
        return self.recent() >= self.MANY

    def recent(self) -> int:
        """Return how many there were, one soon after the other."""
        return self._count if self._clock() - self._last <= self.FORGIVEN_S else 0


class Repairs:
    """The backends that are being repaired.

    Attributes:
        setbacks: Of every backend.
    """

    def __init__(self, repair: Callable[[str], Awaitable[bool]]) -> None:
        """*repair* makes one try at a backend; it returns whether nothing is left to do."""
        self._repair = repair
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closed = False
        self.setbacks: defaultdict[str, Setbacks] = defaultdict(Setbacks)

    def begin(self, name: str) -> None:
        """See to it that backend *name* has what it should."""
        task = self._tasks.get(name)
        if (task is None or task.done() or task.cancelling()) and not self._closed:
            task = self._tasks[name] = asyncio.get_running_loop().create_task(self._run(name))
            task.add_done_callback(lambda task: self._ended(name, task))

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(name) is task:
            del self._tasks[name]

    def interrupt(self, name: str) -> None:
        """Leave backend *name* to somebody who changes it."""
        if name in self._tasks:
            self._tasks[name].cancel()

    def close(self) -> set[asyncio.Task[None]]:
        """Begin no more; return those that may still run, for the caller to end."""
        self._closed = True
        return set(self._tasks.values())

    async def _run(self, name: str) -> None:
        done = False
        while not done:
            await asyncio.sleep(self.setbacks[name].delay_s())
            done = await self._repair(name)
