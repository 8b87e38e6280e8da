"""A body in a file, and the ASGI `receive` that reads it for an event loop."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import Message, Receive

from serve_bridge.forwarding.refusals import UploadBroken
from serve_bridge.http.readable import PIECE_BYTES, Readable

LARGE_PIECE_BYTES: Final = 4 * PIECE_BYTES
"""How many bytes are read from a disk at a time. Each read runs in another thread, and switching to the thread costs
more than reading, so the pieces are large."""


def receive_from(body: Readable, length: int | None, *, on_disk: bool) -> Receive:
    """Return an ASGI `receive` that reads *body*; it raises UploadBroken if *body* cannot be read.

    Args:
        body: The file.
        length: Length of the body in bytes; None if it is not known.
        on_disk: Whether a read may wait for a disk. Then it runs in a thread, so that the loop does not wait.
    """
    left = length

    async def receive() -> Message:
        nonlocal left
        try:
            if on_disk:
                piece = await asyncio.to_thread(_read, body, LARGE_PIECE_BYTES)
            else:
                piece = _read(body, PIECE_BYTES)
        except OSError as broken:
            raise UploadBroken(str(broken)) from broken
        if left is not None:
            left -= len(piece)
        return {"type": "http.request", "body": piece, "more_body": bool(piece) and left != 0}

    return receive


def _read(body: Readable, size: int) -> bytes:
    """Return *size* bytes of *body*, fewer only at its end. Each piece becomes a message, so long ones are best."""
    pieces = []
    while size and (piece := body.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
