"""Shortages of the calling process itself: file descriptors, memory, ports.

Rule 1: a shortage says nothing about the peer; no replica counts as lost because of it.
Rule 2: a connection that cannot be opened for a shortage asks for what is idle in this process, and is tried once more.
"""

from __future__ import annotations

import errno
import os
import threading
import weakref
from typing import Final, Protocol

from serve_bridge.wire.endings import Lost

_ERRORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL})


class Shortage(Lost):
    """This process lacks what a connection takes; nothing was sent, and nothing is known of the peer."""


class Reserve(Protocol):
    """What holds idle connections."""

    def give_back(self) -> int:
        """Close them, from any thread; return how many there were."""
        ...


_lock = threading.Lock()
_reserves: weakref.WeakSet[Reserve] = weakref.WeakSet()


def is_shortage(error: BaseException | None) -> bool:
    """Return whether *error* says that this process lacks something."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _ERRORS)


def keep(reserve: Reserve) -> None:
    """Ask *reserve* for what it holds whenever there is a shortage."""
    with _lock:
        _reserves.add(reserve)


def give_back() -> bool:
    """Close what is idle in this process; return whether there was anything."""
    with _lock:
        reserves = list(_reserves)
    return sum(reserve.give_back() for reserve in reserves) > 0


def _start_afresh() -> None:
    """After a fork: what the parent holds is not the child's."""
    global _lock, _reserves
    _lock, _reserves = threading.Lock(), weakref.WeakSet()


os.register_at_fork(after_in_child=_start_afresh)
