"""The type of a WSGI request's body."""

from __future__ import annotations

from typing import Final, Protocol

PIECE_BYTES: Final = 64 * 1024
"""How many bytes of a body are read at a time."""


class Readable(Protocol):
    """A body that is read in pieces, as in WSGI."""

    def read(self, size: int, /) -> bytes:
        """Return up to *size* bytes; no bytes at the end."""
        ...
