"""The open connections of this process, which a forked child drops.

A fork gives the child a copy of every socket. If the child kept the copies, closing a connection in the parent would
not end it for the peer.
"""

from __future__ import annotations

import os
import weakref
from typing import Final, Protocol

__all__ = ["drop_after_fork"]


class Droppable(Protocol):
    """A connection that a forked child inherits."""

    def drop(self) -> None:
        """Close the child's copy of the socket without sending anything."""


_open: Final[weakref.WeakSet[Droppable]] = weakref.WeakSet()


def drop_after_fork(connection: Droppable) -> None:
    """Call `drop` of *connection* in each child that this process forks from now on."""
    _open.add(connection)


def _drop_inherited() -> None:
    for connection in list(_open):
        connection.drop()


os.register_at_fork(after_in_child=_drop_inherited)
