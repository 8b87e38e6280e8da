"""The body of one request, as the application receives it."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import Message, Scope

from serve_bridge.http.body_length import COLLECTED
from serve_bridge.http_server.buffers import Share
from serve_bridge.http_server.client_connection import ClientConnection

__all__ = ["RequestBody"]

TOGETHER_BYTES: Final = 32 * 1024
"""Number of bytes at which an application wakes if it waits for the whole body. So a slow client wakes it rarely.

The number is below the mark for a pause in reading.
"""
MOST_PIECES: Final = 256
"""Upper limit for the number of separate pieces of a body in memory."""


class RequestBody:
    """The body of one request, and the application's `receive`.

    Attributes:
        held: Bytes of the body in memory: bytes waiting for the application, and bytes of its last message.
        more: Whether more of the body may arrive.
        share: The body's share of the server's buffers; None: the request has no body.
        waiting_for_100_continue: Whether the client holds its body back until the server asks for it.
        closed: Whether the application receives only `http.disconnect` from now on.
    """

    __slots__ = (
        "_connection",
        "_has_news",
        "_news",
        "_pieces",
        "_scope",
        "closed",
        "held",
        "more",
        "share",
        "waiting_for_100_continue",
    )

    def __init__(self, scope: Scope, connection: ClientConnection, *, expects_100_continue: bool) -> None:
        self._scope = scope
        self._connection = connection
        self._pieces: list[bytes] = []
        self._has_news = False
        self._news: asyncio.Event | None = None
        self.held: int = 0
        self.more: bool = True
        self.share: Share | None = None
        self.waiting_for_100_continue: bool = expects_100_continue
        self.closed: bool = False

    def add(self, piece: bytes) -> None:
        """Add a received piece."""
        self._pieces.append(piece)
        if len(self._pieces) >= MOST_PIECES:  # each piece takes about 40 bytes more than its content
            self._pieces = [b"".join(self._pieces)]
        self.held += len(piece)
        if self.held >= TOGETHER_BYTES or COLLECTED not in self._scope:
            self._wake()

    def end(self, received: int) -> None:
        """End the body after *received* bytes."""
        self.more = False
        self._wake()
        if self.share is not None and self.share.held > received:  # a chunked body was counted at its maximum size
            self.share.set(received)

    def close(self) -> None:
        """Tell the application that its client has left, or that the answer is complete."""
        self.closed = True
        if self._news is not None:
            self._news.set()

    def _wake(self) -> None:
        self._has_news = True
        if self._news is not None:
            self._news.set()

    async def receive(self) -> Message:
        """Wait for the next ASGI message, and return it."""
        if self.waiting_for_100_continue:
            self.waiting_for_100_continue = False
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not (self._has_news or self.closed):
            if self._news is None:
                self._news = asyncio.Event()
            self._news.clear()
            self.held = 0
            self._connection.flow.resume_reading()
            await self._news.wait()
        if self.closed:
            return {"type": "http.disconnect"}
        self._has_news = False
        body = b"".join(self._pieces)  # a single piece is not copied
        self._pieces.clear()
        self.held = len(body)
        return {"type": "http.request", "body": body, "more_body": self.more}
