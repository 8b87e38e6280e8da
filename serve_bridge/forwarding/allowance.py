"""Limits for the memory that a process uses for slow clients. Buffered requests of slow clients hold no slots."""

from __future__ import annotations

import threading
from typing import Final, Protocol

__all__ = ["MAX_KEPT_BYTES", "WORKER_ALLOWANCE", "Allowance", "KeptBytes"]

MAX_KEPT_BYTES: Final = 16 << 20
"""Upper limit for the buffered bytes of one request."""

WORKER_BYTES: Final = 256 << 20
"""Upper limit for the buffered bytes of all adapters in one process."""


class Allowance(Protocol):
    """A number of bytes that may be buffered."""

    def take(self, size: int) -> bool:
        """Take *size* bytes if there is room for them; return whether there was."""

    def give_back(self, size: int) -> None:
        """Give *size* bytes back."""


class KeptBytes:
    """The share of one request in an allowance. The owner must give it back."""

    __slots__ = ("_allowance", "_size")

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._size = 0

    def take(self, size: int) -> bool:
        """Take *size* more bytes if there is room for them; return whether there was."""
        if self._size + size > MAX_KEPT_BYTES or not self._allowance.take(size):
            return False
        self._size += size
        return True

    def give_back(self) -> None:
        """Give all bytes back."""
        size, self._size = self._size, 0
        if size:
            self._allowance.give_back(size)


class _Counted:
    def __init__(self, limit: int) -> None:
        self._left = limit
        self._lock = threading.Lock()  # several threads of a web worker use it at the same time

    def take(self, size: int) -> bool:
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True

    def give_back(self, size: int) -> None:
        with self._lock:
            self._left += size


WORKER_ALLOWANCE: Final[Allowance] = _Counted(WORKER_BYTES)
"""The allowance of all adapters in this process."""
