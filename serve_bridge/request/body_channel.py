"""The ASGI channel from which Starlette reads a body that is held here, or that arrives in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from time import monotonic
from typing import Final, Protocol

from starlette.types import Message

PIECE_BYTES: Final = 64 * 1024
"""Upper limit in bytes for a message of ASGI `receive` that is a part of a longer body which is here."""
TURN_S: Final = 0.002
"""Time in seconds after which a body that is being read lets other work of the loop run before its next piece. The
reader, such as the parser of a form, may take long for each piece.
"""


class Caller(Protocol):
    """The peer that waits for the answer to a request."""

    def may_send(self) -> bool:
        """Return whether it still does."""

    async def gone(self) -> None:
        """Wait until it does not any more."""


class BodyChannel:
    """The ASGI channel from which Starlette reads *body*; after it comes that *caller* has left.

    With *repeats* it gives the whole body whenever it is asked.

    Attributes:
        loop: The loop on which it is called; None: any.
        whole: The whole body; None: it comes in pieces.
        begun: Whether something of the body was taken.
    """

    __slots__ = ("_caller", "_chunks", "_ended", "_repeats", "begun", "loop", "whole")

    def __init__(
        self, body: bytes | AsyncIterable[bytes], caller: Caller | None = None, *, repeats: bool = False
    ) -> None:
        self.begun = False
        self.whole = body if isinstance(body, bytes) else None
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
    """Yield *body* in pieces."""
    turn_began = monotonic()
    for start in range(0, len(body), PIECE_BYTES):
        yield body[start : start + PIECE_BYTES]
        if monotonic() - turn_began > TURN_S:
            await asyncio.sleep(0)
            turn_began = monotonic()
