"""One HTTP/1 connection of the edge.

uvicorn's httptools protocol parses requests, builds ASGI scopes and hands over WebSockets. Added here:

Rule 1: nothing reaches its parser that the framer has not let through.
Rule 2: one request at a time. What is pipelined waits as bytes, and a refusal never overtakes an answer.
Rule 3: no timer a request. A connection keeps its deadlines as numbers, and the server sweeps over them all.
Rule 4: a client has left when the connection is lost. One that has only ended its own side is still answered;
one that ends it after the answer has begun counts as leaving.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import socket
import uuid
from http import HTTPStatus
from typing import Final, cast

import httptools
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from serve_bridge.config import HTTPOptions
from serve_bridge.proxy.http_framing import FramingLimits, Refusal, RequestFramer
from serve_bridge.proxy.http_response import HOP_BY_HOP, ResponseWriter, status_line

__all__ = ["EdgeProtocol", "EdgeState"]

BODY_BYTES_PER_S: Final = 1024
"""Slowest body that is waited for, once `body_timeout_s` has passed."""

UNREAD_BYTES: Final = 64 * 1024
"""Most bytes of a body that nobody reads that are drained before the connection closes."""

LINGER_S: Final = 1.0
DRAIN_LINGER_S: Final = 0.25
"""How long a client has to take the last answer before a connection with unread bytes closes."""

_LISTED_BUT_KEPT: Final = frozenset(b"authorization content-length content-type cookie host".split())


class EdgeState(ServerState):
    """What the connections of one server share.

    Attributes:
        options: Limits and deadlines.
        framing: The part of them that the framer enforces.
        draining: No connection is kept alive any more.
        cancels: The task of a request is cancelled when its client leaves; else the application is only told.
        date_line: The Date header of answers, as a line.
    """

    def __init__(self, options: HTTPOptions) -> None:
        super().__init__()
        self.options = options
        self.framing = FramingLimits(
            options.max_request_line_bytes,
            options.max_header_bytes,
            options.max_headers,
            options.max_body_bytes,
        )
        self.logger = logging.getLogger("serve_bridge.proxy")
        self.draining = False
        self.cancels = False
        self.date_line = b""

    def connection_opened(self) -> None:
        """Called after a connection joined `connections`."""

    def connection_closed(self) -> None:
        """Called after a connection left `connections`."""


class EdgeProtocol(HttpToolsProtocol):
    """uvicorn's protocol behind the framer, with the deadlines of `HTTPOptions`.

    Attributes:
        gave_up: Nobody receives the answer any more: the connection is lost, or the request was refused.
    """

    server_state: EdgeState

    def __init__(self, config: Config, state: EdgeState, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(config, state, {}, loop)
        self.access_log = False
        self.logger = state.logger
        self.gave_up = False
        self._framer = RequestFramer(state.framing)
        self._serving: asyncio.Task[None] | None = None
        self._deadline = math.inf
        self._reading_head = True
        self._has_connection_header = False
        self._half_closed = False
        self._lingering = False
        self._unread_left = UNREAD_BYTES
        self._body_time = 0.0
        self._written = self._taken = 0
        self._stalled = 0.0

    # Events of the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the header deadline: a client that says nothing is not waited for."""
        super().connection_made(transport)
        self._deadline = self.loop.time() + self.server_state.options.header_timeout_s
        self.server_state.connection_opened()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application that the client has left."""
        self.gave_up = True
        super().connection_lost(exc)
        if self.server_state.cancels and self._busy and self._serving is not None:
            self._serving.cancel()
        self.server_state.connection_closed()

    def data_received(self, data: bytes) -> None:
        """Serve what the bytes complete."""
        if self._lingering:
            self._discard(len(data))
            return
        self._framer.receive(data)
        self._serve_received()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Close, unless a request waits for its answer."""
        if self._lingering or not self._busy or not self._framer.at_head:
            return None
        self._half_closed = True
        cycle = self.cycle
        if cycle.response_started:
            cycle.disconnected = True
            cycle.message_event.set()
        elif cycle.scope["http_version"] == "1.1":
            # A FIN does not tell a half-closed connection from a closed one, but a write does: a closed one
            # resets. Clients drop a 100 (Continue) that they did not wait for (RFC 9110 section 15.2.1).
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.loop.call_later(0.05, self._check_reset)
        return True

    # From bytes to requests

    @property
    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _serve_received(self) -> None:
        framer = self._framer
        try:
            while not (framer.at_head and self._busy):
                piece = framer.next_piece()
                if piece is None:
                    break
                self._feed(piece)
                if self.gave_up:
                    return
        except Refusal as refusal:
            self._refuse(refusal.status, refusal.reason)
            return
        if not framer.at_head or not framer.buffered:
            return
        if self._busy:
            if framer.buffered >= UNREAD_BYTES:
                self.flow.pause_reading()
        elif not self._reading_head:
            self._reading_head = True
            self._deadline = self.loop.time() + self.server_state.options.header_timeout_s

    def _feed(self, piece: bytes) -> None:
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self._upgrade()
        except httptools.HttpParserInvalidMethodError:
            raise Refusal(501, "the method is unknown") from None
        except httptools.HttpParserError:
            raise Refusal(400, "the request is malformed") from None

    def _upgrade(self) -> None:
        if self.scope["http_version"] != "1.1":
            raise Refusal(400, "a WebSocket needs HTTP/1.1")
        self.gave_up = True
        rest = self._framer.rest()
        self.handle_websocket_upgrade()
        if rest:
            cast(asyncio.Protocol, self.transport.get_protocol()).data_received(rest)

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade to anything else is ignored, as RFC 9110 section 7.8 allows."""

    # Callbacks of the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser for each header; drops what must not reach the application."""
        name = name.lower()
        if b"_" in name:  # WSGI reads it as the name with "-"
            return
        if name in HOP_BY_HOP:
            if name == b"connection" or name == b"upgrade":
                self._has_connection_header = True
            elif name != b"transfer-encoding":  # by which the application knows that a body comes
                return
        elif name == b"expect":
            self.expect_100_continue = True
        self.headers.append((name, value.rstrip(b" \t")))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        scope = cast(Scope, cycle.scope)
        self._reading_head = False
        self._deadline = math.inf
        self._body_time = 0.0
        if self._has_connection_header:
            self._has_connection_header = False
            scope["headers"] = end_to_end(scope["headers"])
        if scope["http_version"] != "1.1":
            cycle.waiting_for_100_continue = False
        served = answer_asterisk if scope["path"] == "*" else cast(ASGIApp, app)
        task = self._serving = self.loop.create_task(ResponseWriter(served, cycle, self).run())
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    # What the writer of the answer needs

    @property
    def date_line(self) -> bytes:
        """The Date header of an answer that begins now, as a line."""
        return self.server_state.date_line

    def write(self, data: bytes) -> None:
        """Write bytes of an answer, if anybody can still receive them."""
        if not self.gave_up:
            self._written += len(data)
            self.transport.write(data)

    def may_keep_alive(self) -> bool:
        """Return whether the connection may serve another request after the answer that begins now."""
        framer = self._framer
        return (framer.at_head or framer.body_left <= UNREAD_BYTES) and not self.server_state.draining

    def on_response_complete(self) -> None:
        """Go on to the next request, or close."""
        if self.transport.is_closing() or self.gave_up:
            return
        if not self.cycle.keep_alive:
            self._close()
            return
        self._deadline = self.loop.time() + self.server_state.options.keep_alive_timeout_s
        self.flow.resume_reading()
        if self._framer.buffered:
            self._serve_received()
        if self._half_closed and not self._busy:
            self._close()

    # Closing

    def _close(self) -> None:
        """Close once the client has what was written; unread bytes must not reset the connection before."""
        if self._framer.at_head and not self._framer.buffered:
            self.transport.close()
            return
        self._linger()

    def _linger(self) -> None:
        self._lingering = True
        self._deadline = self.loop.time() + (DRAIN_LINGER_S if self.server_state.draining else LINGER_S)
        self.transport.write_eof()
        self.flow.resume_reading()

    def _discard(self, count: int) -> None:
        self._unread_left -= count
        if self._unread_left < 0:
            self.flow.pause_reading()

    def _refuse(self, status: int, reason: str) -> None:
        """Answer with a problem and close; an answer that has begun is cut off instead."""
        request_id = uuid.uuid4().hex
        self.logger.info("refused a request with %d: %s (request id %s)", status, reason, request_id)
        if self._busy and self.cycle.response_started:
            self._abandon()
            self.transport.abort()
        else:
            self.answer_problem(status, reason, request_id)

    def answer_problem(self, status: int, reason: str, request_id: str) -> None:
        """Answer the request, of whose answer nothing is out, with a problem; then close."""
        self.write(problem(status, reason, request_id))
        self._abandon()
        if not self.transport.is_closing():
            self._linger()

    def _abandon(self) -> None:
        self.gave_up = True
        if self._busy:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.flow.resume_writing()

    def _check_reset(self) -> None:
        connection: socket.socket | None = self.transport.get_extra_info("socket")
        if connection is None or self.transport.is_closing():
            return
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()

    # Deadlines

    def drain(self, idle_until: float) -> None:
        """Close when idle at *idle_until*, on the loop's clock; the next answer closes otherwise."""
        if not self._busy:
            self._deadline = min(self._deadline, idle_until)

    def sweep(self, now: float, elapsed: float) -> None:
        """Close or abort if a deadline has passed.

        Args:
            now: The loop's clock, in seconds.
            elapsed: Seconds since the last sweep.
        """
        if now >= self._deadline:
            self._expire()
        elif self._half_closed:
            self._check_reset()
        self._sweep_write(elapsed)
        if not self._framer.at_head and not self._lingering:
            self._sweep_body(elapsed)

    def _expire(self) -> None:
        if self.transport.is_closing() or self._lingering:
            self.transport.abort()
        elif self._busy:
            self.transport.close()
        else:  # a request that crosses with the close meets a FIN and no reset
            self._linger()

    def _sweep_write(self, elapsed: float) -> None:
        taken = self._written - self.transport.get_write_buffer_size()
        if taken > self._taken or taken >= self._written:
            self._taken, self._stalled = taken, 0.0
            return
        self._stalled += elapsed
        if self._stalled > self.server_state.options.write_timeout_s:
            self.transport.abort()

    def _sweep_body(self, elapsed: float) -> None:
        if self.flow.read_paused or self.cycle.waiting_for_100_continue:
            return
        self._body_time += elapsed
        late = self._body_time - self.server_state.options.body_timeout_s
        if late > 0 and self._framer.body_received < late * BODY_BYTES_PER_S:
            self.transport.abort()


async def answer_asterisk(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer ``OPTIONS *``, which asks for the server and no route, with an empty 204."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


def end_to_end(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return *headers* without Connection, Upgrade and what Connection lists, but for `_LISTED_BUT_KEPT`."""
    listed = {
        option.strip().lower() for name, value in headers if name == b"connection" for option in value.split(b",")
    }
    dropped = (listed - _LISTED_BUT_KEPT) | {b"connection", b"upgrade"}
    return [header for header in headers if header[0] not in dropped]


def problem(status: int, reason: str, request_id: str) -> bytes:
    """Return the bytes of an answer that refuses a request (RFC 9457) and closes the connection."""
    title = HTTPStatus(status).phrase
    body = json.dumps({"title": title, "status": status, "detail": reason, "request_id": request_id}).encode()
    return b"%scontent-type: application/problem+json\r\ncontent-length: %d\r\nx-request-id: %s\r\n%s\r\n%s" % (
        status_line(status),
        len(body),
        request_id.encode(),
        b"connection: close\r\n",
        body,
    )
