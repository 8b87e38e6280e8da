"""Shortages of the calling process itself: it lacks file descriptors, memory or ports.

Rule 1: a shortage says nothing about the peer, so no replica counts as lost because of it.
Rule 2: if a shortage prevents a connection, this process closes its idle connections and tries once more.
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
    """This process lacks file descriptors, memory or ports for a connection. Nothing was sent to the peer."""


class Reserve(Protocol):
    """A holder of idle connections."""

    def give_back(self) -> int:
        """Close the idle connections, and return their number. Any thread may call this."""
        ...


_lock = threading.Lock()
_reserves: weakref.WeakSet[Reserve] = weakref.WeakSet()


def is_shortage(error: BaseException | None) -> bool:
    """Return whether *error* is a shortage of this process."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _ERRORS)


def keep(reserve: Reserve) -> None:
    """Let *reserve* close its idle connections at each shortage."""
    with _lock:
        _reserves.add(reserve)


def give_back() -> bool:
    """Close the idle connections of this process; return whether there were any."""
    with _lock:
        reserves = list(_reserves)
    return sum(reserve.give_back() for reserve in reserves) > 0


def _start_afresh() -> None:
    """Forget the parent's reserves and lock. A forked child calls this."""
    global _lock, _reserves
    _lock, _reserves = threading.Lock(), weakref.WeakSet()


os.register_at_fork(after_in_child=_start_afresh)
