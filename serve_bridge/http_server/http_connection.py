"""One HTTP/1 connection: the events of its transport, and its deadlines.

`request_sequence` serves the requests on it, `lingering` closes it, and `websocket_connection` takes WebSockets over.

Rule 1: a connection has no timer per request. It keeps its deadlines as numbers, and the server sweeps over them all.
Rule 2: a client has left when the connection is lost. A client that has only ended its own side still gets its answer.
If it ends its side after the answer has begun, or over TLS, it counts as having left.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any, Final, cast

from uvicorn.config import Config
from uvicorn.protocols.utils import is_ssl

from serve_bridge.http.request_id import request_id_of
from serve_bridge.http_server.client_connection import TurnFlow
from serve_bridge.http_server.connection_deadlines import ConnectionDeadlines
from serve_bridge.http_server.http_exchange import Exchange
from serve_bridge.http_server.http_framing import RequestFramer
from serve_bridge.http_server.http_scope import ConnectionScope
from serve_bridge.http_server.lingering import LingeringClose
from serve_bridge.http_server.places import Place
from serve_bridge.http_server.request_head import RequestHead
from serve_bridge.http_server.request_sequence import RequestSequence
from serve_bridge.http_server.send_queue import SendQueue
from serve_bridge.http_server.state import ServerState
from serve_bridge.http_server.websocket_connection import WebSocketConnection

__all__ = ["HttpConnection"]

GONE_AFTER_QUIET_S: Final = 0.5
"""Time in seconds without a sent byte, after which a client that ended its side during its answer counts as gone."""

RESET_AFTER_S: Final = 0.05
"""Time in seconds after which a write has reset the connection of a closed client."""


class HttpConnection(asyncio.Protocol):
    """One connection, from its first byte to its last, with the deadlines of `HTTPOptions`.

    Attributes: see `ClientConnection`.
    """

    transport: asyncio.Transport
    flow: TurnFlow
    is_tls: bool
    queue: SendQueue
    scope: ConnectionScope
    requests: RequestSequence

    def __init__(self, config: Config, state: ServerState, loop: asyncio.AbstractEventLoop, place: Place) -> None:
        self.config = config
        self.server_state = state
        self.loop = loop
        self.place = place
        self.logger: logging.Logger = state.logger
        self.gave_up: bool = False
        self.half_closed: bool = False

    # Events of the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the header deadline: a silent client loses its connection."""
        state = self.server_state
        cast(set[Any], state.connections).add(self)
        self.transport = transport
        self.place.evict = self._evict
        self.flow = TurnFlow(transport)
        self.is_tls = is_ssl(transport)
        self.scope = ConnectionScope(transport, self.config.asgi_version, is_tls=self.is_tls)
        self.queue = SendQueue(transport, state.buffers, is_tls=self.is_tls, least_rate=state.options.min_answer_rate)
        client = self.scope.client
        is_trusted = bool(state.trusted) and client is not None and client[0] in state.trusted
        self._framer = RequestFramer(state.framing, state.admit, trusted=is_trusted)
        self._deadlines = ConnectionDeadlines()
        self._closing = LingeringClose(self, self._framer, self._deadlines)
        self.requests = RequestSequence(
            cast(Any, self.config.loaded_app), self, self._framer, self._deadlines, self._closing
        )
        timeout_s = state.options.header_timeout_s
        if state.draining:
            timeout_s = min(timeout_s, state.idle_grace_s)
        self._deadlines.allow(self.loop.time(), timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application that the client has left."""
        self.gave_up = True
        self.queue.give_back()
        self.place.give_back()
        self.server_state.connections.discard(self)
        self.requests.lose()
        self.flow.resume_writing()
        if exc is None:
            self.transport.close()
        self.server_state.connection_closed()

    def pause_writing(self) -> None:
        """Pause the answer: the client is behind."""
        self.flow.pause_writing()
        self._count()

    def resume_writing(self) -> None:
        """Resume the answer."""
        self.flow.resume_writing()
        self._count()

    def _count(self) -> None:
        """Count the bytes on their way to the client, and the received bytes of requests that wait."""
        exchange = self.requests.exchange if self.flow.write_paused else None  # otherwise no bytes pile up behind it
        waiting = self._framer.buffered if self._framer.at_head else 0  # the share of a body counts its bytes
        self.queue.count(waiting if exchange is None else waiting + exchange.answer.most_to_come())

    def data_received(self, data: bytes) -> None:
        """Serve received bytes."""
        if self._closing.begun:
            self._closing.drop(len(data))
            return
        self._framer.receive(data)
        self.requests.serve_received()
        if self.flow.read_paused and not self.gave_up:  # the next sweep would count them late
            self._count()

    def eof_received(self) -> bool | None:
        """Close, unless a request waits for its answer. A TLS connection always closes: it cannot be half closed."""
        requests = self.requests
        exchange = requests.exchange
        if self.is_tls or self._closing.begun or not requests.busy or exchange is None:
            return None
        if not (self._framer.at_head or requests.refused):
            return None
        self.half_closed = True
        if requests.refused:
            return True
        if exchange.answer.started:
            exchange.disconnect()
            if self.server_state.cancels:
                self.loop.call_later(GONE_AFTER_QUIET_S, self._abort_if_quiet, exchange, self.queue.written)
        elif exchange.scope["http_version"] == "1.1":
            # A FIN does not tell a half-closed connection from a closed one, but a write does: a closed client
            # resets the connection. A client ignores a needless 100 (Continue) (RFC 9110 section 15.2.1).
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.loop.call_later(RESET_AFTER_S, self._abort_if_reset)
        return True

    def _abort_if_reset(self) -> None:
        connection: socket.socket | None = self.transport.get_extra_info("socket")
        if connection is None or self.transport.is_closing():
            return
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()

    def _abort_if_quiet(self, exchange: Exchange, written: int) -> None:
        """Abort if no byte is being sent. A client that still reads gets bytes, and a write to a closed one fails."""
        if exchange is not self.requests.exchange or not self.requests.busy:
            return
        if self.queue.written == written and not self.queue.unsent():
            self.transport.abort()
        else:
            self.loop.call_later(GONE_AFTER_QUIET_S, self._abort_if_quiet, exchange, self.queue.written)

    # For the requests on the connection

    def write(self, data: bytes) -> None:
        """Write bytes of an answer. If none can be sent any more, do nothing."""
        if not self.gave_up and not self.transport.is_closing():
            self.queue.write(data)

    def upgrade(self, head: RequestHead, rest: bytes) -> None:
        """Hand the connection over to a WebSocket; *rest*: the bytes after the head."""
        self.gave_up = True
        self.queue.give_back()
        self.server_state.connections.discard(self)
        websocket = WebSocketConnection(self.config, self.server_state, {})
        websocket.place = self.place
        self.place.evict = self.transport.abort
        websocket.connection_made(self.transport)
        self.transport.set_protocol(websocket)
        if self.flow.write_paused:  # the answer before it is still on its way, and the transport tells this only once
            websocket.pause_writing()
        path = head.target + (b"?" + head.query if head.query else b"")
        refused = None
        if head.refusal is not None:
            refused = (head.refusal, request_id_of(head.headers))
            self.server_state.note_refusal(*refused)
        websocket.shake_hands(path.decode("ascii"), head.headers, refused)
        if rest:
            websocket.data_received(rest)
        if self.half_closed and refused is None:  # a WebSocket needs both directions
            self.transport.close()

    # For the server

    def drain(self) -> None:
        """Close soon if idle. Otherwise the connection closes after its next answer."""
        if not self.requests.busy and not self._framer.buffered:
            self._deadlines.shorten(self.loop.time(), self.server_state.idle_grace_s)

    def make_room(self) -> None:
        """Close soon if the connection is only kept alive for another request."""
        if not self.requests.reading_head:
            self.drain()

    def _evict(self) -> None:
        """Close, because another connection has taken the place. An idle client gets a FIN if possible, not a reset."""
        if self.requests.reading_head or self._closing.begun or self.transport.is_closing():
            self.transport.abort()
        else:
            self._closing.expire(busy=self.requests.busy)
            self.server_state.places.let_leave(self.transport.abort)

    def sweep(self, now: float, elapsed: float) -> None:
        """Close or abort if a deadline has passed.

        Args:
            now: The loop's time in seconds.
            elapsed: Seconds since the last sweep.
        """
        if self._deadlines.passed(now, self.server_state.impatience):
            self._closing.expire(busy=self.requests.busy)
        elif self.half_closed:
            self._abort_if_reset()
        self._count()
        if self.queue.is_too_slow(elapsed, self.server_state.write_timeout_s):
            self.transport.abort()
        if not self._framer.at_head and not self._closing.begun and not self.requests.refused:
            self._sweep_body(elapsed)

    def _sweep_body(self, elapsed: float) -> None:
        exchange = self.requests.exchange
        if self.flow.read_paused or (exchange is not None and exchange.body.waiting_for_100_continue):
            return
        limit_s = self.server_state.options.body_timeout_s
        if self._deadlines.body_is_too_slow(elapsed, self._framer.body_received, limit_s):
            self.transport.abort()
