"""The answer to one request: the ASGI messages of the application become bytes.

Rule 1: no answer may break the framing or split in two. If the application asks for such an answer, it becomes a 500
before its first byte. After the first byte, the server aborts the connection.
Rule 2: the status is sent as given, except for 100 and 101, which are not final answers.
Rule 3: the server sets hop-by-hop headers itself; those of the application are dropped.
"""

from __future__ import annotations

import http
import re
from collections.abc import Iterable
from typing import Any, Final, Protocol

from starlette.types import Message, Scope

from serve_bridge.http.answers import is_bodyless
from serve_bridge.http.headers import HOP_BY_HOP, TRAILERS
from serve_bridge.http.name_cache import NameCache
from serve_bridge.http.request_id import request_id_of
from serve_bridge.http_server.client_connection import ClientConnection
from serve_bridge.http_server.refusal import Refusal
from serve_bridge.http_server.request_body import RequestBody

__all__ = ["AnswerWriter", "chunk", "status_line"]

_SPECIAL: Final = HOP_BY_HOP | {b"content-length", b"date"}

COPY_BYTES: Final = 64 * 1024
"""Upper limit, in bytes, for the piece of a body copied after the head to save a write."""

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NO_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_LENGTH = re.compile(rb"[0-9]{1,18}")


def status_line(status: int) -> bytes:
    """Return the status line of an answer. A status without a registered phrase gets an empty phrase."""
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode("latin-1")


_STATUS_LINES: Final = {status: status_line(status) for status in range(102, 600)}


class AnsweredRequests(Protocol):
    """The requests of a connection, as the writer of an answer sees them."""

    def may_keep_alive(self) -> bool:
        """Return whether the connection may serve another request after the current answer."""

    def answer_problem(self, refusal: Refusal, request_id: str, *, bodyless: bool) -> None:
        """Answer a request with a problem document, then close. No byte of another answer may have been sent."""

    def on_response_complete(self) -> None:
        """Begin the next request, or close."""


class AnswerWriter:
    """Writes one answer, as the application's `send`.

    Attributes:
        keep_alive: Whether the connection may serve another request afterwards.
        started: Whether the application has sent the head.
        complete: Whether the application has sent all of the answer.
        abandoned: Whether the request was refused although the application runs. Its messages are dropped.
    """

    __slots__ = (
        "_bodyless",
        "_chunked",
        "_connection",
        "_has_trailers",
        "_head",
        "_left",
        "_request_body",
        "_requests",
        "_scope",
        "_trailers",
        "abandoned",
        "complete",
        "keep_alive",
        "started",
    )

    def __init__(
        self,
        scope: Scope,
        connection: ClientConnection,
        requests: AnsweredRequests,
        body: RequestBody,
        *,
        keep_alive: bool,
    ) -> None:
        self._scope = scope
        self._connection = connection
        self._requests = requests
        self._request_body = body
        self._bodyless = self._chunked = self._has_trailers = False
        self._left: int | None = None
        self._head = b""
        self._trailers: list[bytes] | None = None
        self.keep_alive: bool = keep_alive
        self.started: bool = False
        self.complete: bool = False
        self.abandoned: bool = False

    @property
    def dropped(self) -> bool:
        """Whether messages of the application are dropped: the request was refused, or no client can receive them."""
        return self.abandoned or self._connection.gave_up

    def most_to_come(self) -> int:
        """Return an upper limit for the bytes of the answer in the application's memory."""
        if self.complete or self._bodyless:
            return 0
        window = self._connection.server_state.answer_window_bytes
        return window if self._left is None else min(self._left, window)

    def fail(self) -> None:
        """Answer with 500 if no byte was sent. Otherwise abort: the client must not take the answer for complete."""
        if self.complete or self.dropped:
            return
        if self._head or not self.started:
            self._head = b""
            refusal, is_head = Refusal(500, "the application failed"), self._scope["method"] == "HEAD"
            self._requests.answer_problem(refusal, request_id_of(self._scope["headers"]), bodyless=is_head)
        else:
            self._connection.transport.abort()

    async def send(self, message: Message) -> None:
        """Write one ASGI message. If the client is behind, wait first."""
        connection = self._connection
        if connection.flow.write_paused:
            await connection.flow.drain()
        if connection.gave_up or self.abandoned:
            return
        kind = message["type"]
        if kind == "http.response.start" and not self.started:
            self._start(message)
        elif kind == "http.response.body" and self.started and not self.complete and self._trailers is None:
            self._body(message.get("body", b""), message.get("more_body", False))
        elif kind == TRAILERS and self._trailers is not None and not self.complete:
            self._end_with(self._trailers, message)
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r}")

    def _start(self, message: Message) -> None:
        status = message["status"]
        line = _STATUS_LINES.get(status)
        if line is None:
            raise ValueError(f"{status!r} is not the status of a final answer")
        head = [line]
        keep_alive = self._headers(message.get("headers", ()), head, without_length=status < 200 or status == 204)
        keep_alive = keep_alive and self.keep_alive and status >= 200 and self._requests.may_keep_alive()
        request_body = self._request_body
        if request_body.waiting_for_100_continue:
            request_body.waiting_for_100_continue = False
            if request_body.more:
                # A client that never got 100 Continue may or may not send the body, so its next byte is ambiguous.
                keep_alive = False
        self._bodyless = is_bodyless(status) or self._scope["method"] == "HEAD"
        if self._left is None and not self._bodyless:
            if self._scope["http_version"] == "1.1":
                self._chunked = True
                head.append(b"transfer-encoding: chunked\r\n")
            else:  # HTTP/1.0 has no chunks: the body ends with the connection
                keep_alive = False
        if not keep_alive:
            head.append(b"connection: close\r\n")
        head.append(b"\r\n")
        self.keep_alive = keep_alive
        self.started = True
        self._has_trailers = message.get("trailers", False)
        # Most bodies follow in the same turn of the loop. One write costs half as much as two, so the head waits.
        self._head = b"".join(head)
        self._connection.loop.call_soon(self._flush_head)

    def _flush_head(self) -> None:
        head, self._head = self._head, b""
        if head and not self._connection.transport.is_closing():
            self._connection.write(head)

    def _headers(self, headers: Iterable[Any], head: list[bytes], *, without_length: bool) -> bool:
        """Append the application's headers and a date to *head*. Return whether the connection may stay open."""
        keep_alive, dated = True, False
        for name, value in headers:
            if _NO_VALUE.search(value):
                raise ValueError("the value of a response header holds a forbidden character")
            lowered = _NAMES[name]
            if lowered in _SPECIAL:
                if lowered == b"date":
                    dated = True
                elif lowered == b"content-length":
                    if self._left is not None or not _LENGTH.fullmatch(value):
                        raise ValueError("the content-length of the response is not a number, or is given twice")
                    self._left = int(value)
                    if without_length:
                        continue
                else:
                    keep_alive = keep_alive and not (lowered == b"connection" and b"close" in value.lower())
                    continue
            head += (lowered, b": ", value, b"\r\n")
        if not dated:
            head.append(self._connection.server_state.date_line)
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
        """Collect trailers in *lines*. After the last message, end the answer.

        The trailers are sent only in a chunked answer, and only if the client has asked for them.
        """
        for name, value in message.get("headers", ()):
            if _NO_VALUE.search(value):
                raise ValueError("the value of a trailer holds a forbidden character")
            lowered = _NAMES[name]
            if lowered not in _SPECIAL:
                lines += (lowered, b": ", value, b"\r\n")
        if message.get("more_trailers", False):
            return
        if self._chunked:
            asked = TRAILERS in self._scope.get("extensions", ())
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
        self.complete = True
        self._request_body.close()
        self._requests.on_response_complete()


def _header_name(name: bytes) -> bytes:
    """Return *name* in lower case.

    Raises:
        ValueError: The name holds a forbidden character.
    """
    if not _NAME.fullmatch(name):
        raise ValueError("the name of a response header holds a forbidden character")
    return name.lower()


_NAMES: Final = NameCache(_header_name)


def chunk(body: bytes, *, last: bool) -> bytes:
    """Return *body* as a chunk, with the end of the body if it is the *last*. An empty body is not a chunk."""
    framed = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return framed + b"0\r\n\r\n" if last else framed
