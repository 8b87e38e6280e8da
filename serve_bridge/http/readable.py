"""A request body that is read in pieces, as WSGI servers give it."""

from __future__ import annotations

from typing import Final, Protocol

PIECE_BYTES: Final = 64 * 1024
"""How many bytes of a body are read at a time."""


class Readable(Protocol):
    """A request's body as WSGI gives it."""

    def read(self, size: int, /) -> bytes:
        """Return up to *size* bytes; none at its end."""
        ...
