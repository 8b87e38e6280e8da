"""The ASGI `send` through which a Starlette response, or an ASGI application, answers a request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import MutableMapping
from typing import Any, Final

from serve_bridge.http.answers import fit_head, fit_trailers, is_bodyless
from serve_bridge.http.headers import TRAILERS, HeaderList
from serve_bridge.wire.heads import INLINE_BODY_BYTES, HttpAnswer, encode_head
from serve_bridge.wire.replica_end import ReplicaStream

_logger = logging.getLogger("serve_bridge.replica")

HEAD_GRACE_S: Final = 0.5
"""Upper limit in seconds for a head to wait for the first piece of a body of unknown length.

It is long enough for user code which fails at once to become a 500 even on a busy machine. It is short enough for an
EventSource to open quickly.
"""
Message = MutableMapping[str, Any]


class ResponseSender:
    """The ASGI `send` of one answer."""

    def __init__(self, stream: ReplicaStream, *, has_no_body: bool = False, takes_trailers: bool = False) -> None:
        self._stream = stream
        self._has_no_body = has_no_body
        self._takes_trailers = takes_trailers
        self._trailers: HeaderList = []
        self._start: HttpAnswer | None = None
        self._grace: asyncio.TimerHandle | None = None
        self._started = self._awaits_trailers = self._flows = False

    def passes(self, message: Message) -> bool:
        """Send *message* if it is a piece of the body and need not wait; return whether it was sent."""
        if not self._flows or message["type"] != "http.response.body" or not message.get("more_body", False):
            return False
        body = message.get("body", b"")
        return type(body) is bytes and self._stream.offer(body)

    async def __call__(self, message: Message) -> None:
        """Take one message of an HTTP response.

        Raises:
            Lost: The caller has left, or the answer has no body.
        """
        if self.passes(message):
            return
        if message["type"] == "http.response.start":
            headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
            status, headers = fit_head(message["status"], headers)
            self._has_no_body = self._has_no_body or is_bodyless(status)
            self._takes_trailers = self._takes_trailers and message.get("trailers", False) and not self._has_no_body
            self._start = HttpAnswer(status, headers, b"", None, self._takes_trailers)
            if not self._has_no_body and not any(name == b"content-length" for name, _ in headers):
                self._grace = asyncio.get_running_loop().call_later(HEAD_GRACE_S, self._send_head)
        elif message["type"] == "http.response.body" and self._start is not None:
            end = not message.get("more_body", False)
            self._awaits_trailers = end and self._takes_trailers
            await self._body(message.get("body", b""), end=end and not self._takes_trailers)
        elif message["type"] == TRAILERS and self._awaits_trailers:
            self._trailers += [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
            if not message.get("more_trailers", False):
                await self._end_with(self._trailers)

    async def _end_with(self, trailers: HeaderList) -> None:
        sent = fit_trailers(trailers)
        if len(sent) < len(trailers):
            _logger.warning(
                "%d trailers were dropped, because such headers may not follow a body", len(trailers) - len(sent)
            )
        await self._stream.send_segments([encode_head(sent)], end=True)

    async def _body(self, body: bytes, *, end: bool) -> None:
        assert self._start is not None
        if not self._started:
            if self._has_no_body:
                body, end = b"", True
            if end and len(body) <= INLINE_BODY_BYTES:
                self._begin()
                whole = HttpAnswer(self._start.status, self._start.headers, bytes(body))
                self._stream.respond(encode_head(whole), end=True)
                return
            self._send_head()
        if body or end:
            await self._stream.send_segments([body] if body else [], end=end)

    def _send_head(self) -> None:
        if not self._started and self._stream.may_send():
            self._begin()
            self._flows = True
            self._stream.respond(encode_head(self._start), end=False)

    def _begin(self) -> None:
        self._started = True
        if self._grace is not None:
            self._grace.cancel()
