"""One HTTP/1 connection of the edge.

The framer cuts the bytes into heads and bodies. Scopes are made here, `http_exchange` serves the request,
`websocket_protocol` takes WebSockets over.

Rule 1: the framer alone decides where a message begins and ends. No parser reads the same bytes again.
Rule 2: one request at a time. What is pipelined waits as bytes, and a refusal never overtakes an answer.
Rule 3: no timer a request. A connection keeps its deadlines as numbers, and the server sweeps over them all.
Rule 4: the refusal of a readable request is the application's to answer, behind the middlewares. Bytes that cannot be
read as a request are answered here.
Rule 5: a client has left when the connection is lost. One that has only ended its own side is still answered;
one that ends it after the answer has begun, or over TLS, counts as leaving.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from typing import Any, Final, cast

from starlette.types import ASGIApp, Scope
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from serve_bridge.http.body_length import BODY_LENGTH
from serve_bridge.http.headers import TRAILERS
from serve_bridge.http_server.buffers import Share
from serve_bridge.http_server.http_exchange import Exchange
from serve_bridge.http_server.http_framing import RequestFramer
from serve_bridge.http_server.http_heads import answer_asterisk, closing_answer
from serve_bridge.http_server.pace import Pace
from serve_bridge.http_server.places import Place
from serve_bridge.http_server.request_head import Refusal, RequestHead
from serve_bridge.http_server.send_queue import SendQueue
from serve_bridge.http_server.state import NO_ROOM, EdgeState
from serve_bridge.proxy.refusals import REFUSAL, answer_of, request_id_of

__all__ = ["EdgeProtocol"]

UNREAD_BYTES: Final = 64 * 1024
"""Upper limit for the rest of an unread body, in bytes, up to which the connection stays open for the next request."""

BODY_HELD_BYTES: Final = HIGH_WATER_LIMIT + 256 * 1024
"""Most bytes of a request's body that are here at once: those above which no more are read, and one read."""

QUICKLY_SENT_BYTES: Final = 16 * 1024
"""Bytes that are surely on their way soon, whatever the client does."""

QUIET_S: Final = 0.5
"""How long nothing leaves for a client that has ended its side in the middle of its answer, before it is gone."""

LINGER_S: Final = 1.0
DRAIN_LINGER_S: Final = 0.25
"""How long a client has to take the last answer before a connection with unread bytes closes."""

UPLOAD_LINGER_S: Final = 5.0
MOST_LINGER_S: Final = 30.0
"""How long a client that goes on with its upload may be silent, and how long all of that may take.

A client that sends all of its body before it reads, such as Python's http.client, gets an early answer only if the
server takes the body. nginx has the same limits (`lingering_timeout` and `lingering_time`).
"""


PIECE_COST: Final = 2048
OVERHEAD_COST: Final = 64
"""What a piece of a body costs of a turn beside its bytes, and what each byte of the framing around it does. A chunk of
one byte has five of framing, and costs as much as to read some hundreds."""


class _Flow(FlowControl):
    """Reads no more while the connection waits for its turn.

    Attributes:
        in_line: It waits.
    """

    in_line = False

    def resume_reading(self) -> None:
        """Read again, or as soon as the turn has come."""
        if not self.in_line:
            super().resume_reading()


class EdgeProtocol(asyncio.Protocol):
    """One connection, from its first byte to its last, with the deadlines of `HTTPOptions`.

    Attributes:
        gave_up: Nobody receives the answer any more: the connection is lost, or the request was refused.
    """

    transport: asyncio.Transport
    flow: FlowControl

    def __init__(self, config: Config, state: EdgeState, loop: asyncio.AbstractEventLoop, place: Place) -> None:
        self.config = config
        self.server_state = state
        self.loop = loop
        self._place = place
        self.logger = state.logger
        self.gave_up = False
        self._app = cast(ASGIApp, config.loaded_app)
        self._exchange: Exchange | None = None
        self._serving: asyncio.Task[None] | None = None
        self._deadline = math.inf
        self._patience_s = 0.0
        self._reading_head = True
        self._half_closed = self._is_tls = False
        self._lingering = self._refused = False
        self._upload_left = 0.0
        self._heard_at = self._linger_ends = 0.0
        self._body_seen = 0
        self._body_pace: Pace

    # Events of the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the header deadline: a client that says nothing is not waited for."""
        state = self.server_state
        cast(set[Any], state.connections).add(self)
        self.transport = transport
        self._place.evict = self._evict
        self.flow = self._flow = _Flow(transport)
        self._is_tls = is_ssl(transport)
        self._scheme = "https" if self._is_tls else "http"
        self._server, self._client = get_local_addr(transport), get_remote_addr(transport)
        rate = state.options.min_answer_rate
        self._queue = SendQueue(transport, state.buffers, is_tls=self._is_tls, least_rate=rate)
        is_trusted = bool(state.trusted) and self._client is not None and self._client[0] in state.trusted
        self._framer = RequestFramer(state.framing, state.admit, trusted=is_trusted)
        timeout_s = state.options.header_timeout_s
        self._wait(min(timeout_s, state.idle_grace_s) if state.draining else timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application that the client has left."""
        self.gave_up = True
        self._queue.give_back()
        self._place.give_back()
        self.server_state.connections.discard(self)
        if self._exchange is not None:
            self._exchange.lose()
        self.flow.resume_writing()
        if exc is None:
            self.transport.close()
        if self.server_state.cancels and self._busy and self._serving is not None:
            self._serving.cancel()
        self.server_state.connection_closed()

    def pause_writing(self) -> None:
        """Let the answer wait: the client is behind."""
        self.flow.pause_writing()
        self._count_answer()

    def resume_writing(self) -> None:
        """Let it go on."""
        self.flow.resume_writing()
        self._count_answer()

    def _count_answer(self) -> None:
        exchange = self._exchange if self.flow.write_paused else None  # else nothing piles up behind
        self._queue.count(0 if exchange is None else exchange.most_to_come())

    def data_received(self, data: bytes) -> None:
        """Serve what the bytes complete."""
        if self._lingering:
            self._upload_left -= len(data)
            self._heard_at = self.loop.time()
            return
        self._framer.receive(data)
        self._serve_received()

    def eof_received(self) -> bool | None:
        """Close, unless a request waits for its answer; TLS is closed by its end in any case."""
        if self._is_tls or self._lingering or not self._busy or not (self._framer.at_head or self._refused):
            return None
        self._half_closed = True
        if self._refused:
            return True
        exchange = self._exchange
        assert exchange is not None
        if exchange.response_started:
            exchange.disconnect()
            if self.server_state.cancels:
                self.loop.call_later(QUIET_S, self._end_if_quiet, exchange, self._queue.written)
        elif exchange.scope["http_version"] == "1.1":
            # A FIN does not tell a half-closed connection from a closed one, but a write does: a closed one
            # resets. Clients drop a 100 (Continue) that they did not wait for (RFC 9110 section 15.2.1).
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.loop.call_later(0.05, self._check_reset)
        return True

    # From bytes to requests

    @property
    def _busy(self) -> bool:
        return self._exchange is not None and not self._exchange.response_complete

    def _serve_received(self) -> None:
        framer = self._framer
        if self._flow.in_line:
            return
        try:
            while not (framer.at_head and self._busy):
                before = framer.buffered
                piece = framer.next_piece()
                if piece is None:
                    break
                if isinstance(piece, bytes):
                    self._take_body(piece)
                    if framer.buffered and not self._may_go_on(before - framer.buffered, len(piece)):
                        return
                else:
                    self._begin(piece)
                if self.gave_up or self._refused:
                    return
        except Refusal as refusal:
            self._refuse(refusal)
            return
        if not framer.at_head or not framer.buffered:
            return
        if self._busy:
            if framer.buffered >= UNREAD_BYTES:
                self.flow.pause_reading()
        elif not self._reading_head:
            self._reading_head = True
            self._wait(self.server_state.options.header_timeout_s)

    def _may_go_on(self, taken: int, size: int) -> bool:
        """Count a piece of *size* bytes that was framed in *taken*; if this turn is over, wait in line for another."""
        turns = self.server_state.turns
        turns.spend(PIECE_COST + size + OVERHEAD_COST * (taken - size))
        if turns.left > 0:
            return True
        self.flow.pause_reading()
        self._flow.in_line = True
        turns.wait(self._take_turn)
        return False

    def _take_turn(self) -> None:
        self._flow.in_line = False
        if self.gave_up or self._lingering or self.transport.is_closing():
            return
        if self._exchange is None or self._exchange.body_held <= HIGH_WATER_LIMIT:
            self.flow.resume_reading()
        self._serve_received()

    def _begin(self, head: RequestHead) -> None:
        """Begin to serve a request."""
        if not self._place.serve():
            self.server_state.note_share(self._client)
            head.refusal = Refusal(NO_ROOM, "this client has too many requests under way")
        if head.websocket:
            self._upgrade(head)
            return
        scope: Scope = {
            "type": "http",
            "asgi": {"version": self.config.asgi_version, "spec_version": "2.3"},
            "http_version": head.version,
            "server": self._server,
            "client": self._client,
            "scheme": self._scheme,
            "root_path": "",
            "method": head.method,
            "path": head.path,
            "raw_path": head.target,
            "query_string": head.query,
            "headers": head.headers,
            "state": {},
            BODY_LENGTH: head.body_length,
        }
        if head.takes_trailers:
            scope["extensions"] = {TRAILERS: {}}
        self._reading_head = False
        self._deadline = math.inf
        if head.refusal is not None:
            self._serve_refusal(scope, head.refusal)
            return
        exchange = self._run(
            Exchange(
                answer_asterisk if head.target == b"*" else self._app,
                scope,
                self,
                keep_alive=head.keep_alive,
                expects_100_continue=head.expects_continue,
            )
        )
        if self._framer.at_head:
            exchange.end_body(0)
        else:
            self._body_seen = 0
            self._body_pace = Pace(self.server_state.options.min_body_rate)
            exchange.share = Share(self.server_state.buffers)
            exchange.share.add(min(self._framer.body_left, BODY_HELD_BYTES))

    def _run(self, exchange: Exchange) -> Exchange:
        self._exchange = exchange
        task = self._serving = self.loop.create_task(exchange.run())
        tasks = self.server_state.tasks
        task.add_done_callback(tasks.discard)
        tasks.add(task)
        return exchange

    def _serve_refusal(self, scope: Scope, refusal: Refusal) -> None:
        """Let the application answer a readable request that is not served; the connection closes after the answer."""
        request_id = request_id_of(scope["headers"])
        self._note(refusal, request_id)
        self._refused = True
        self._framer.refuse()
        self.flow.resume_reading()
        scope = {**scope, "state": {}, REFUSAL: (refusal, request_id), BODY_LENGTH: 0}
        self._run(Exchange(self._app, scope, self, keep_alive=False, expects_100_continue=False)).end_body(0)

    def _take_body(self, piece: bytes) -> None:
        """Pass a piece of a body on; what the application does not read waits outside."""
        exchange = self._exchange
        assert exchange is not None
        if exchange.response_complete:
            return
        if piece:
            exchange.take_body(piece)
        if self._framer.at_head:
            exchange.end_body(self._framer.body_received)
        elif exchange.body_held > HIGH_WATER_LIMIT:
            self.flow.pause_reading()

    def _upgrade(self, head: RequestHead) -> None:
        """Hand the connection over to a WebSocket, with the bytes that followed the head."""
        self.gave_up = True
        self._queue.give_back()
        rest = self._framer.rest()
        self.server_state.connections.discard(self)
        websocket = cast(Any, self.config.ws_protocol_class)(self.config, self.server_state, {})
        websocket.place = self._place
        self._place.evict = self.transport.abort
        websocket.connection_made(self.transport)
        self.transport.set_protocol(websocket)
        path = head.target + (b"?" + head.query if head.query else b"")
        refused = None
        if head.refusal is not None:
            refused = (head.refusal, request_id_of(head.headers))
            self._note(*refused)
        websocket.shake_hands(path.decode("ascii"), head.headers, refused)
        if rest:
            websocket.data_received(rest)

    # What the writer of the answer needs

    @property
    def date_line(self) -> bytes:
        """The Date header of an answer that begins now, as a line."""
        return self.server_state.date_line

    def write(self, data: bytes) -> None:
        """Write bytes of an answer, if anybody can still receive them."""
        if not self.gave_up and not self.transport.is_closing():
            self._queue.write(data)

    def may_keep_alive(self) -> bool:
        """Return whether the connection may serve another request after the answer that begins now."""
        framer = self._framer
        return (framer.at_head or framer.body_left <= UNREAD_BYTES) and self.server_state.idle_grace_s == math.inf

    def on_response_complete(self) -> None:
        """Go on to the next request, or close."""
        if self.transport.is_closing() or self.gave_up:
            return
        if self._exchange is None or not self._exchange.keep_alive:
            self._close()
            return
        self._wait(min(self.server_state.options.keep_alive_timeout_s, self.server_state.idle_grace_s))
        self.flow.resume_reading()
        if self._framer.buffered:
            self._serve_received()
        if not self._busy:
            if self._half_closed:
                self._close()
            elif not self.gave_up:
                self._place.wait(self.loop.time())

    # Closing

    def _close(self) -> None:
        """Close once the client has what was written; unread bytes must not reset the connection before."""
        # The closing of TLS has a time limit, which would cut off what a slow client has yet to take.
        slow = self._is_tls and self._queue.unsent() > QUICKLY_SENT_BYTES
        if slow or self._framer.buffered or not self._framer.at_head:
            self._linger()
        else:
            self._end()

    def _end(self) -> None:
        self.transport.close()
        if self._is_tls:  # the client has its end to say, too; that it has taken everything is enough
            self._linger_on()

    def _linger(self) -> None:
        """End the server's own direction; read on and drop what comes, until the client closes too."""
        self._lingering = True
        now, left = self.loop.time(), self._framer.body_left - self._framer.buffered
        self._upload_left = left if left > 0 else math.inf  # what follows a head that was refused is not known
        self._heard_at = now if left > 0 else -math.inf
        self._linger_ends = now + (LINGER_S if self.server_state.draining else MOST_LINGER_S)
        self._framer.discard()
        self._linger_on()
        if not self._is_tls:  # which ends in both directions only
            self.transport.write_eof()
        self.flow.resume_reading()

    def _linger_on(self) -> None:
        now = self.loop.time()
        self._wait(DRAIN_LINGER_S if self.server_state.draining else LINGER_S)
        self._place.wait(now)

    def _refuse(self, refusal: Refusal) -> None:
        """Refuse bytes that are not a request, or not the rest of one; then close.

        If the answer to the request has begun, it is cut off instead.
        """
        exchange = self._exchange
        if exchange is None or not self._busy:
            if not self._framer.at_head:  # the request was answered, only the rest of its body is wrong
                self._note(refusal, request_id_of([]))
                self._linger()
                return
            request_id = request_id_of([])
            self._note(refusal, request_id)
            self.answer_problem(refusal, request_id)
        elif exchange.response_started:
            self._note(refusal, request_id_of(exchange.scope["headers"]))
            self._abandon()
            self.transport.abort()
        else:
            exchange.abandon()
            if self.server_state.cancels and self._serving is not None:
                self._serving.cancel()
            self._serve_refusal(exchange.scope, refusal)

    def _note(self, refusal: Refusal, request_id: str) -> None:
        # The buffers log one warning for all refusals that a lack of room causes.
        level = logging.DEBUG if refusal.status == NO_ROOM else logging.INFO
        self.server_state.refusals.note(refusal, request_id, level=level)

    def answer_problem(self, refusal: Refusal, request_id: str) -> None:
        """Answer the request, of whose answer nothing is out, with a problem; then close."""
        self.write(closing_answer(answer_of(refusal, request_id), self.date_line))
        self._abandon()
        if not self.transport.is_closing():
            self._linger()

    def _abandon(self) -> None:
        self.gave_up = True
        if self._exchange is not None and self._busy:
            self._exchange.disconnect()
        self.flow.resume_writing()

    def _check_reset(self) -> None:
        connection: socket.socket | None = self.transport.get_extra_info("socket")
        if connection is None or self.transport.is_closing():
            return
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()

    def _end_if_quiet(self, exchange: Exchange, written: int) -> None:
        """Take a client for gone to whom nothing is being sent; a write would tell, and a reader is not cut off."""
        if exchange is not self._exchange or not self._busy:
            return
        if self._queue.written == written and not self._queue.unsent():
            self.transport.abort()
        else:
            self.loop.call_later(QUIET_S, self._end_if_quiet, exchange, self._queue.written)

    # Deadlines

    def drain(self) -> None:
        """Close soon if idle; else the next answer closes."""
        if not self._busy and not self._framer.buffered:
            self._deadline = min(self._deadline, self.loop.time() + self.server_state.idle_grace_s)

    def make_room(self) -> None:
        """Close soon if kept alive for a request that may never come."""
        if not self._reading_head:
            self.drain()

    def _wait(self, timeout_s: float) -> None:
        self._deadline = self.loop.time() + timeout_s
        self._patience_s = timeout_s

    def _evict(self) -> None:
        """Close, since another connection has got the place; a kept-alive client may still hear of the close."""
        if self._reading_head or self._lingering or self.transport.is_closing():
            self.transport.abort()
        else:
            self._expire()
            self.server_state.places.let_leave(self.transport.abort)

    def sweep(self, now: float, elapsed: float) -> None:
        """Close or abort if a deadline has passed.

        Args:
            now: The loop's clock, in seconds.
            elapsed: Seconds since the last sweep.
        """
        if now >= self._deadline - self._patience_s * self.server_state.impatience:
            self._expire()
        elif self._half_closed:
            self._check_reset()
        self._count_answer()
        if self._queue.is_too_slow(elapsed, self.server_state.write_timeout_s):
            self.transport.abort()
        if not self._framer.at_head and not self._lingering and not self._refused:
            self._sweep_body(elapsed)

    def _expire(self) -> None:
        if self.transport.is_closing() or self._lingering:
            self._end_lingering()
        elif self._busy or self._is_tls:
            self._end()
        else:  # a request that crosses with the close meets a FIN and no reset
            self._linger()

    def _end_lingering(self) -> None:
        if self._sends_on() or self._queue.unsent():  # the sweep cuts off a client that takes nothing of its answer
            self._linger_on()
        elif self._is_tls and not self.transport.is_closing():
            self._end()
        else:
            self.transport.abort()

    def _sends_on(self) -> bool:
        """Return whether the client goes on with its upload, and may."""
        now = self.loop.time()
        return self._upload_left > 0 and now < min(self._linger_ends, self._heard_at + UPLOAD_LINGER_S)

    def _sweep_body(self, elapsed: float) -> None:
        if self.flow.read_paused or (self._exchange is not None and self._exchange.waiting_for_100_continue):
            return
        received = self._framer.body_received
        moved, self._body_seen = received - self._body_seen, received
        if self._body_pace.spend(elapsed, moved, self.server_state.options.body_timeout_s):
            self.transport.abort()
