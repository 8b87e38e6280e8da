"""The body of an HTTP request, as user code and Starlette read it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import monotonic

from serve_bridge.replica.response_sender import Message
from serve_bridge.request.body_channel import TURN_S
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.heads import HttpHead
from serve_bridge.wire.replica_end import ReplicaStream


class IncomingBody:
    """A body in DATA frames. The caller sends it only after the first read.

    Attributes:
        loop: The loop on which the body is read.
    """

    __slots__ = ("_accepted", "_stream", "_turn_began", "loop")

    def __init__(self, stream: ReplicaStream) -> None:
        self._stream = stream
        self._accepted = False
        self._turn_began = monotonic()
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()

    async def next(self) -> bytes | None:
        """Return the next chunk, or None after the last."""
        if not self._accepted:
            self._accepted = True
            self._stream.accept_body()
        if monotonic() - self._turn_began > TURN_S:
            await asyncio.sleep(0)
            self._turn_began = monotonic()
        return await self._stream.next_chunk()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate the remaining chunks."""
        while (chunk := await self.next()) is not None:
            yield chunk


class Receiver:
    """The ASGI `receive` of one request.

    Attributes:
        loop: The loop on which it must be called; None: any, because the whole body is here.
        whole: The whole body; None: the body arrives in pieces.
        begun: Whether a part of the body was read.
    """

    __slots__ = ("_body", "_ended", "_stream", "begun", "loop", "whole")

    def __init__(self, head: HttpHead, stream: ReplicaStream) -> None:
        self._stream = stream
        self._body = IncomingBody(stream) if stream.has_body else None
        self._ended = False
        self.begun: bool = False
        self.loop: asyncio.AbstractEventLoop | None = None if self._body is None else self._body.loop
        self.whole: bytes | None = head.body if self._body is None else None

    async def __call__(self) -> Message:
        """Return the next message."""
        if self._ended:
            await self._stream.gone()
            return {"type": "http.disconnect"}
        self.begun = True
        if self._body is None:
            self._ended = True
            return {"type": "http.request", "body": self.whole, "more_body": False}
        try:
            chunk = await self._body.next()
        except Lost:
            return {"type": "http.disconnect"}
        self._ended = chunk is None
        return {"type": "http.request", "body": chunk or b"", "more_body": not self._ended}
