"""A body that lies in a file, as an event loop receives it."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import Message, Receive

from serve_bridge.forwarding.refusals import UploadBroken
from serve_bridge.http.readable import PIECE_BYTES, Readable

LARGE_PIECE_BYTES: Final = 4 * PIECE_BYTES
"""What is read from a disk at once, in another thread: the switches cost more than the reading."""


def receive_from(body: Readable, length: int | None, *, on_disk: bool) -> Receive:
    """Return an ASGI `receive` of *body*, of *length* bytes if that is known; a disk does not hold the loop up.

    Raises:
        UploadBroken: By the `receive`: *body* cannot be read.
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
    """Return *size* bytes of *body*, or what is left of it: each piece is a message to the replica."""
    pieces = []
    while size and (piece := body.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
