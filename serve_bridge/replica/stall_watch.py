"""A watch for times in which the loop of this process stood still."""

from __future__ import annotations

import asyncio
from typing import Final

STALL_S: Final = 0.5
"""After this many seconds without a turn, the loop stood still: its process was stopped, or user code blocked it."""


class StallWatch:
    """Notes when a loop has stood still."""

    def __init__(self) -> None:
        self._ticked = self._stalled_until = 0.0
        self._ticking: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Watch the running loop from now on."""
        self._loop = asyncio.get_running_loop()
        self._ticked = self._loop.time()
        self._tick()

    def has_stalled(self) -> bool:
        """Return whether the loop has just stood still. If so, the bytes it reads now may be old."""
        now = self._loop.time()
        return now < self._stalled_until or now - self._ticked > STALL_S

    def stop(self) -> None:
        """End the watch."""
        if self._ticking is not None:
            self._ticking.cancel()

    def _tick(self) -> None:
        now = self._loop.time()
        if now - self._ticked > STALL_S:
            self._stalled_until = now + STALL_S
        self._ticked = now
        self._ticking = self._loop.call_later(STALL_S / 2, self._tick)
