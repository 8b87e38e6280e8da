"""The ASGI channel from which Starlette reads a body."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from time import monotonic
from typing import Final, Protocol

from starlette.types import Message

PIECE_BYTES: Final = 64 * 1024
"""Upper limit in bytes for one message of ASGI `receive`, if the whole body is here and is longer."""
TURN_S: Final = 0.002
"""Seconds of reading after which a body lets other tasks of the loop run before its next piece.

The reader, such as the parser of a form, may need long for each piece.
"""


class Caller(Protocol):
    """The peer waiting for the answer to a request."""

    def may_send(self) -> bool:
        """Return whether the peer still waits."""

    async def gone(self) -> None:
        """Wait until the peer has left."""


class BodyChannel:
    """The ASGI channel of *body*. After the body, it reports when *caller* has left.

    With *repeats*, it starts again with the first byte after the end of the body.

    Attributes:
        loop: The loop on which the channel must be called; None: any.
        whole: The whole body; None: the body arrives in pieces.
        begun: Whether a part of the body was read.
    """

    __slots__ = ("_caller", "_chunks", "_ended", "_repeats", "begun", "loop", "whole")

    def __init__(
        self, body: bytes | AsyncIterable[bytes], caller: Caller | None = None, *, repeats: bool = False
    ) -> None:
        self.begun: bool = False
        self.whole: bytes | None = body if isinstance(body, bytes) else None
        self.loop: asyncio.AbstractEventLoop | None = getattr(body, "loop", None)
        if isinstance(body, bytes):
            self._chunks = None if len(body) <= PIECE_BYTES else _pieces(body)
        else:
            self._chunks = aiter(body)
        self._caller = caller
        self._repeats = repeats
        self._ended = False

    async def __call__(self) -> Message:
        """Return the next message."""
        if self._ended:
            await (asyncio.get_running_loop().create_future() if self._caller is None else self._caller.gone())
            return {"type": "http.disconnect"}
        self.begun = True
        if self._chunks is None:
            self._ended = not self._repeats
            return {"type": "http.request", "body": self.whole, "more_body": False}
        try:
            return {"type": "http.request", "body": await anext(self._chunks), "more_body": True}
        except StopAsyncIteration:
            self._ended = not self._repeats
            if self._repeats and self.whole is not None:
                self._chunks = _pieces(self.whole)
            return {"type": "http.request", "body": b"", "more_body": False}


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    """Yield *body* in pieces of at most `PIECE_BYTES`."""
    turn_began = monotonic()
    for start in range(0, len(body), PIECE_BYTES):
        yield body[start : start + PIECE_BYTES]
        if monotonic() - turn_began > TURN_S:
            await asyncio.sleep(0)
            turn_began = monotonic()
