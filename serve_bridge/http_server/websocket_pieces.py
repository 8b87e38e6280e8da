"""The pieces of an incomplete WebSocket message."""

from __future__ import annotations

import sys
from typing import Any, Final

__all__ = ["PIECE_BYTES", "MessagePieces", "memory_of"]

PIECE_BYTES: Final = 64 * 1024
"""Upper limit, in bytes, for the part of a payload read or inflated by one step."""

_SHORT_BYTES: Final = 4096
"""Length below which a piece is short."""
_SHORT_PIECES: Final = 256
"""Upper limit for the number of short pieces before they are joined."""


class MessagePieces:
    """A message that has begun. It joins short pieces early, because each object takes memory beside its content.

    Attributes:
        held: Bytes of memory taken by the pieces.
    """

    __slots__ = ("_empty", "_length", "_long", "_short", "held")

    def __init__(self, empty: Any) -> None:
        """Begin with *empty*: an empty text, or empty bytes."""
        self._empty = empty
        self._long: list[Any] = []
        self._short: list[Any] = []
        self._length = 0
        self.held: int = 0

    def add(self, piece: Any) -> None:
        """Add the next *piece*."""
        if not piece:
            return
        self.held += memory_of(piece)
        if len(piece) >= _SHORT_BYTES:
            self._join_short()
            self._long.append(piece)
            return
        self._short.append(piece)
        self._length += len(piece)
        if len(self._short) >= _SHORT_PIECES or self._length >= PIECE_BYTES:
            self._join_short()

    def joined(self) -> Any:
        """Return the whole message, and drop the pieces."""
        pieces = [*self._long, *self._short]
        self._long, self._short = [], []
        self.held = 0
        return pieces[0] if len(pieces) == 1 else self._empty.join(pieces)

    def _join_short(self) -> None:
        short = self._short
        if not short:
            return
        joined = self._empty.join(short)
        self.held += memory_of(joined) - sum(map(memory_of, short))
        short.clear()
        kept = len(joined) < _SHORT_BYTES
        (short if kept else self._long).append(joined)
        self._length = len(joined) if kept else 0


def memory_of(content: str | bytes) -> int:
    """Return the size of *content* in memory, in bytes. A text takes 1 to 4 bytes per character, by its widest one."""
    return sys.getsizeof(content) - sys.getsizeof(content[:0])
