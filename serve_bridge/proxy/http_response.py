"""How the answer of an ASGI application becomes bytes, and which answers may leave.

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
import uuid
from collections.abc import Iterable
from typing import Any, Final, Protocol, cast

from starlette.types import ASGIApp, Message, Receive, Scope
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

__all__ = ["HOP_BY_HOP", "Connection", "ResponseWriter", "status_line"]

HOP_BY_HOP: Final = frozenset(
    b"connection keep-alive proxy proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade".split()
)

COPY_BYTES: Final = 64 * 1024
"""Longest piece of a body that is copied behind the head to save a write."""

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
    """What the writer needs of the connection it writes to.

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

    def answer_problem(self, status: int, reason: str, request_id: str) -> None:
        """Answer the request, of whose answer nothing is out, with a problem; then close."""


class ResponseWriter:
    """Runs the application for one request and writes what it sends.

    It takes the place of the sending half of uvicorn's request cycle, which keeps the receiving half.
    """

    __slots__ = ("_app", "_bodyless", "_chunked", "_connection", "_cycle", "_head", "_left")

    def __init__(self, app: ASGIApp, cycle: RequestResponseCycle, connection: Connection) -> None:
        self._app = app
        self._cycle = cycle
        self._connection = connection
        self._bodyless = self._chunked = False
        self._left: int | None = None
        self._head = b""

    async def run(self) -> None:
        """Run the application; an answer that it leaves incomplete becomes a 500, or is cut off."""
        # BaseException: SystemExit in a task would end the loop, and with it every other request.
        try:
            await self._app(cast(Scope, self._cycle.scope), cast(Receive, self._cycle.receive), self.send)
        except asyncio.CancelledError:
            if not self._connection.transport.is_closing():
                self._fail()
        except BaseException:
            self._connection.logger.exception("the application failed")
            self._fail()
        else:
            if not self._cycle.response_complete and not self._connection.gave_up:
                self._connection.logger.error("the application returned before its answer was complete")
                self._fail()

    def _fail(self) -> None:
        """Answer with 500 while nothing of the answer is out; abort later, lest it be taken for whole."""
        if self._cycle.response_complete or self._connection.gave_up:
            return
        if self._head or not self._cycle.response_started:
            self._head = b""
            self._connection.answer_problem(500, "the application failed", uuid.uuid4().hex)
        else:
            self._connection.transport.abort()

    async def send(self, message: Message) -> None:
        """Write one ASGI message; wait first while the client takes nothing."""
        connection, cycle = self._connection, self._cycle
        if connection.flow.write_paused:
            await connection.flow.drain()
        if connection.gave_up:
            return
        kind = message["type"]
        if kind == "http.response.start" and not cycle.response_started:
            self._start(message)
        elif kind == "http.response.body" and cycle.response_started and not cycle.response_complete:
            self._body(message.get("body", b""), message.get("more_body", False))
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r}")

    def _start(self, message: Message) -> None:
        cycle, status = self._cycle, message["status"]
        line = _STATUS_LINES.get(status)
        if line is None:
            raise ValueError(f"{status!r} is no status of a final answer")
        head = [line]
        keep_alive = self._headers(message.get("headers", ()), head, without_length=status < 200 or status == 204)
        keep_alive = keep_alive and cycle.keep_alive and status >= 200 and self._connection.may_keep_alive()
        self._bodyless = status < 200 or status in (204, 304) or cycle.scope["method"] == "HEAD"
        if self._left is None and not self._bodyless:
            if cycle.scope["http_version"] == "1.1":
                self._chunked = True
                head.append(b"transfer-encoding: chunked\r\n")
            else:  # HTTP/1.0 has no chunks: the body ends with the connection
                keep_alive = False
        if not keep_alive:
            head.append(b"connection: close\r\n")
        head.append(b"\r\n")
        cycle.keep_alive = keep_alive
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
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
            if not _NAME.fullmatch(name) or _NO_VALUE.search(value):
                raise ValueError("the name or value of a response header holds a character that it may not")
            lowered = name.lower()
            if lowered == b"date":
                dated = True
            elif lowered == b"content-length":
                if self._left is not None or not _LENGTH.fullmatch(value):
                    raise ValueError("the content-length of the response is no number, or given twice")
                self._left = int(value)
                if without_length:
                    continue
            elif lowered in HOP_BY_HOP:
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
            body = chunk(body, last=not more_body)
        elif self._left is not None:
            body = self._counted(body)
        if self._head and len(body) > COPY_BYTES:
            self._flush_head()
        if self._head or body:
            head, self._head = self._head, b""
            self._connection.write(head + body if head else body)
        if not more_body:
            self._complete()

    def _counted(self, body: bytes) -> bytes:
        assert self._left is not None
        if len(body) > self._left:
            self._connection.logger.warning("a response body was longer than its content-length and was cut")
            body = body[: self._left]
        self._left -= len(body)
        return body

    def _complete(self) -> None:
        cycle = self._cycle
        if self._left and not self._bodyless:
            self._connection.logger.warning("a response body was shorter than its content-length")
            cycle.keep_alive = False
        cycle.response_complete = True
        cycle.message_event.set()
        cycle.on_response()


def chunk(body: bytes, *, last: bool) -> bytes:
    """Return *body* as a chunk (nothing, if it is empty), and after the last one the end of the body."""
    framed = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return framed + b"0\r\n\r\n" if last else framed
