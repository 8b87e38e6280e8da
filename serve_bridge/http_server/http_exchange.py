"""One request on a connection and the answer to it: what the application receives, and how what it sends becomes bytes.

Rule 1: an answer that would break framing or split in two is an error in the application before its first
byte, and is cut off after it; nothing an application sends can desynchronise a connection.
Rule 2: the status goes out as given, but for 100 and 101, which are no final answers.
Rule 3: hop-by-hop headers are the edge's own; those of the application are dropped.
"""

from __future__ import annotations

import asyncio
import http
import logging
import re
from collections.abc import Iterable
from typing import Any, Final, Protocol

from starlette.types import ASGIApp, Message, Scope
from uvicorn.protocols.http.flow_control import FlowControl

from serve_bridge.context import new_request_id
from serve_bridge.forwarding.refusals import Broken
from serve_bridge.http.answers import is_bodyless
from serve_bridge.http.body_length import COLLECTED
from serve_bridge.http.headers import HOP_BY_HOP, TRAILERS
from serve_bridge.http.name_cache import NameCache
from serve_bridge.http_server.buffers import Share
from serve_bridge.http_server.request_head import Refusal
from serve_bridge.wire.streams import ANSWER_WINDOW

__all__ = ["Connection", "Exchange", "chunk", "status_line"]

_SPECIAL: Final = HOP_BY_HOP | {b"content-length", b"date"}

COPY_BYTES: Final = 64 * 1024
"""Longest piece of a body that is copied behind the head to save a write."""

TOGETHER_BYTES: Final = 32 * 1024
"""An application that waits for the whole body gets so many bytes of it at once, so that a slow client wakes it rarely.

This is below the mark at which the connection stops reading.
"""
MOST_PIECES: Final = 256
"""Upper limit for the number of pieces in which a body waits."""

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NO_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_LENGTH = re.compile(rb"[0-9]{1,18}")


def status_line(status: int) -> bytes:
    """Return the status line of an answer; a status without a registered phrase has an empty one."""
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode("latin-1")


_STATUS_LINES: Final = {status: status_line(status) for status in range(102, 600)}


class Connection(Protocol):
    """What an exchange needs of the connection that it is on.

    Attributes:
        gave_up: Nobody receives the answer any more: the connection is lost, or the request was refused.
    """

    flow: FlowControl
    gave_up: bool
    logger: logging.Logger
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport

    @property
    def date_line(self) -> bytes:
        """The Date header of an answer that begins now, as a line."""

    def write(self, data: bytes) -> None:
        """Write bytes of an answer, if anybody can still receive them."""

    def may_keep_alive(self) -> bool:
        """Return whether the connection may serve another request after the answer that begins now."""

    def answer_problem(self, refusal: Refusal, request_id: str) -> None:
        """Answer the request, of whose answer nothing is out, with a problem; then close."""

    def on_response_complete(self) -> None:
        """Go on to the next request, or close."""


class Exchange:
    """One request on a connection and the answer to it: runs the application, and is its `receive` and `send`.

    Attributes:
        scope: The request's ASGI scope.
        keep_alive: Whether the connection may serve another request afterwards.
        waiting_for_100_continue: The client holds its body back until it is asked for it.
        body_held: Bytes of the request's body that are here: those that wait, and those that were received last.
        more_body: Whether more of it may come.
        share: What of the server's buffers the request's body may take; None: it has none.
        disconnected: Nobody waits for the answer any more.
        response_started, response_complete: How far the answer is.
    """

    __slots__ = (
        "_abandoned",
        "_app",
        "_bodyless",
        "_chunked",
        "_connection",
        "_has_news",
        "_has_trailers",
        "_head",
        "_left",
        "_news",
        "_pieces",
        "_trailers",
        "body_held",
        "disconnected",
        "keep_alive",
        "more_body",
        "response_complete",
        "response_started",
        "scope",
        "share",
        "waiting_for_100_continue",
    )

    def __init__(
        self, app: ASGIApp, scope: Scope, connection: Connection, *, keep_alive: bool, expects_100_continue: bool
    ) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = expects_100_continue
        self.body_held = 0
        self.share: Share | None = None
        self.more_body = True
        self.disconnected = self.response_started = self.response_complete = False
        self._abandoned = False
        self._app = app
        self._connection = connection
        self._pieces: list[bytes] = []
        self._has_news = False
        self._news: asyncio.Event | None = None
        self._bodyless = self._chunked = False
        self._left: int | None = None
        self._head = b""
        self._has_trailers = False
        self._trailers: list[bytes] | None = None

    # What the connection reports

    def take_body(self, piece: bytes) -> None:
        """More of the request's body has come."""
        self._pieces.append(piece)
        if len(self._pieces) >= MOST_PIECES:  # each takes some 40 bytes more than it holds
            self._pieces = [b"".join(self._pieces)]
        self.body_held += len(piece)
        if self.body_held >= TOGETHER_BYTES or COLLECTED not in self.scope:
            self._tell()

    def end_body(self, received: int) -> None:
        """All of the request's body has come, *received* bytes."""
        self.more_body = False
        self._tell()
        if self.share is not None and self.share.held > received:  # in chunks, it was taken for long
            self.share.set(received)

    def disconnect(self) -> None:
        """The client has left, or its request was refused."""
        self.disconnected = True
        self._tell()

    def abandon(self) -> None:
        """The request is refused although the application has begun with it; what it still sends is dropped."""
        self._abandoned = True
        self.lose()

    def lose(self) -> None:
        """The connection is lost."""
        if not self.response_complete:
            self.disconnect()
        if self.share is not None:  # a task that is cancelled before its first step does not run at all
            self.share.give_back()

    def _tell(self) -> None:
        self._has_news = True
        if self._news is not None:
            self._news.set()

    def most_to_come(self) -> int:
        """Return how many bytes of the answer may be here that were not yet sent, at most."""
        if self.response_complete or self._bodyless:
            return 0
        return ANSWER_WINDOW if self._left is None else min(self._left, ANSWER_WINDOW)

    # What the application calls

    async def receive(self) -> Message:
        """Return the next ASGI message; wait until there is one."""
        if self.waiting_for_100_continue:
            self.waiting_for_100_continue = False
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not (self._has_news or self.disconnected or self.response_complete):
            if self._news is None:
                self._news = asyncio.Event()
            self._news.clear()
            self.body_held = 0
            self._connection.flow.resume_reading()
            await self._news.wait()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        self._has_news = False
        body = b"".join(self._pieces)  # a single piece is not copied
        self._pieces.clear()
        self.body_held = len(body)
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def run(self) -> None:
        """Run the application; an answer that it leaves incomplete becomes a 500, or is cut off."""
        # BaseException: SystemExit in a task would end the loop, and with it every other request.
        try:
            await self._app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            if not self._connection.transport.is_closing():
                self._fail()
        except Broken:  # the backend's failure is in the log already
            self._fail()
        except BaseException:
            self._connection.logger.exception("the application failed")
            self._fail()
        else:
            if not (self.response_complete or self._connection.gave_up or self._abandoned):
                self._connection.logger.error("the application returned before its answer was complete")
                self._fail()
        finally:
            if self.share is not None:
                self.share.give_back()

    def _fail(self) -> None:
        """Answer with 500 while nothing of the answer is out; abort later, lest it be taken for whole."""
        if self.response_complete or self._connection.gave_up or self._abandoned:
            return
        if self._head or not self.response_started:
            self._head = b""
            self._connection.answer_problem(Refusal(500, "the application failed"), new_request_id())
        else:
            self._connection.transport.abort()

    async def send(self, message: Message) -> None:
        """Write one ASGI message; wait first while the client takes nothing."""
        connection = self._connection
        if connection.flow.write_paused:
            await connection.flow.drain()
        if connection.gave_up or self._abandoned:
            return
        kind = message["type"]
        if kind == "http.response.start" and not self.response_started:
            self._start(message)
        elif kind == "http.response.body" and self._may_have_body():
            self._body(message.get("body", b""), message.get("more_body", False))
        elif kind == TRAILERS and self._trailers is not None and not self.response_complete:
            self._end_with(self._trailers, message)
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r}")

    def _may_have_body(self) -> bool:
        return self.response_started and not self.response_complete and self._trailers is None

    def _start(self, message: Message) -> None:
        status = message["status"]
        line = _STATUS_LINES.get(status)
        if line is None:
            raise ValueError(f"{status!r} is no status of a final answer")
        head = [line]
        keep_alive = self._headers(message.get("headers", ()), head, without_length=status < 200 or status == 204)
        keep_alive = keep_alive and self.keep_alive and status >= 200 and self._connection.may_keep_alive()
        if self.waiting_for_100_continue and self.more_body:
            keep_alive = False  # who was not told to go on may keep the body: its next byte would mean two things
        self._bodyless = is_bodyless(status) or self.scope["method"] == "HEAD"
        if self._left is None and not self._bodyless:
            if self.scope["http_version"] == "1.1":
                self._chunked = True
                head.append(b"transfer-encoding: chunked\r\n")
            else:  # HTTP/1.0 has no chunks: the body ends with the connection
                keep_alive = False
        if not keep_alive:
            head.append(b"connection: close\r\n")
        head.append(b"\r\n")
        self.keep_alive = keep_alive
        self.response_started = True
        self.waiting_for_100_continue = False
        self._has_trailers = message.get("trailers", False)
        # Most bodies follow in the same turn of the loop; one write costs half of two.
        self._head = b"".join(head)
        self._connection.loop.call_soon(self._flush_head)

    def _flush_head(self) -> None:
        head, self._head = self._head, b""
        if head and not self._connection.transport.is_closing():
            self._connection.write(head)

    def _headers(self, headers: Iterable[Any], head: list[bytes], *, without_length: bool) -> bool:
        """Append the application's headers and a date to *head*; return whether they keep the connection."""
        keep_alive, dated = True, False
        for name, value in headers:
            if _NO_VALUE.search(value):
                raise ValueError("the value of a response header holds a character that it may not")
            lowered = _NAMES[name]
            if lowered in _SPECIAL:
                if lowered == b"date":
                    dated = True
                elif lowered == b"content-length":
                    if self._left is not None or not _LENGTH.fullmatch(value):
                        raise ValueError("the content-length of the response is no number, or given twice")
                    self._left = int(value)
                    if without_length:
                        continue
                else:
                    keep_alive = keep_alive and not (lowered == b"connection" and b"close" in value.lower())
                    continue
            head += (lowered, b": ", value, b"\r\n")
        if not dated:
            head.append(self._connection.date_line)
        return keep_alive

    def _body(self, body: bytes, more_body: bool) -> None:
        if self._bodyless:
            body = b""
        elif self._chunked:
            body = chunk(body, last=not more_body and not self._has_trailers)
        elif self._left is not None:
            body = self._counted(body)
        if self._head and len(body) > COPY_BYTES:
            self._flush_head()
        if self._head or body:
            head, self._head = self._head, b""
            self._connection.write(head + body if head else body)
        if more_body:
            return
        if self._has_trailers:
            self._trailers = []
        else:
            self._complete()

    def _end_with(self, lines: list[bytes], message: Message) -> None:
        """Collect trailers, and end the answer with the last; only chunks can carry them, to who has asked for them."""
        for name, value in message.get("headers", ()):
            if _NO_VALUE.search(value):
                raise ValueError("the value of a trailer holds a character that it may not")
            lowered = _NAMES[name]
            if lowered not in _SPECIAL:
                lines += (lowered, b": ", value, b"\r\n")
        if message.get("more_trailers", False):
            return
        if self._chunked:
            asked = TRAILERS in self.scope.get("extensions", ())
            self._connection.write(b"".join([b"0\r\n", *(lines if asked else ()), b"\r\n"]))
        self._complete()

    def _counted(self, body: bytes) -> bytes:
        assert self._left is not None
        if len(body) > self._left:
            self._connection.logger.warning("a response body was longer than its content-length and was cut")
            body = body[: self._left]
        self._left -= len(body)
        return body

    def _complete(self) -> None:
        if self._left and not self._bodyless:
            self._connection.logger.warning("a response body was shorter than its content-length")
            self.keep_alive = False
        self.response_complete = True
        self._tell()
        self._connection.on_response_complete()


def _header_name(name: bytes) -> bytes:
    """Return *name* in lower case.

    Raises:
        ValueError: It holds a character that it may not.
    """
    if not _NAME.fullmatch(name):
        raise ValueError("the name of a response header holds a character that it may not")
    return name.lower()


_NAMES: Final = NameCache(_header_name)


def chunk(body: bytes, *, last: bool) -> bytes:
    """Return *body* as a chunk (nothing, if it is empty), and after the last one the end of the body."""
    framed = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return framed + b"0\r\n\r\n" if last else framed
