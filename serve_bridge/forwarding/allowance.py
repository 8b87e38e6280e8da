"""How many bytes a process keeps for slow clients, so that their requests hold no slot of a backend meanwhile."""

from __future__ import annotations

import threading
from typing import Final, Protocol

__all__ = ["MOST_KEPT_BYTES", "WORKER", "Allowance", "Kept"]

MOST_KEPT_BYTES: Final = 16 << 20
"""Upper limit for what is kept of one body, in bytes."""

WORKER_BYTES: Final = 256 << 20
"""Upper limit for what the adapters of one process keep, in bytes."""


class Allowance(Protocol):
    """Bytes that may be kept for clients."""

    def take(self, size: int) -> bool:
        """Take *size* bytes if there is room for them; return whether there is."""

    def give_back(self, size: int) -> None:
        """Give *size* bytes back."""


class Kept:
    """What is kept for one request; it must be given back in the end."""

    __slots__ = ("_allowance", "_size")

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._size = 0

    def take(self, size: int) -> bool:
        """Keep *size* bytes more if there is room for them; return whether there is."""
        if self._size + size > MOST_KEPT_BYTES or not self._allowance.take(size):
            return False
        self._size += size
        return True

    def give_back(self) -> None:
        """Keep nothing any more."""
        size, self._size = self._size, 0
        if size:
            self._allowance.give_back(size)


class _Counted:
    def __init__(self, limit: int) -> None:
        self._left = limit
        self._lock = threading.Lock()  # the threads of a web worker take and give back at once

    def take(self, size: int) -> bool:
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True

    def give_back(self, size: int) -> None:
        with self._lock:
            self._left += size


WORKER: Final[Allowance] = _Counted(WORKER_BYTES)
"""What the adapters of this process may keep."""
