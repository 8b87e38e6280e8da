"""One WebSocket of the edge: uvicorn's protocol over `websockets`, with what it leaves open closed.

Rule 1: what is received and not yet taken is bounded: one whole message waits, and what one read has brought after it.
        It is worked off in steps that share the turns of the loop with other connections.
Rule 2: a message that grows long is given up with 1013 while there is no room for anything more.
Rule 3: who does not read is not taken for dead while it is our side that does not.
Rule 4: who takes nothing of what is sent is cut off as over HTTP, after `write_timeout_s`; too many pings end earlier.
Rule 5: who is told to close has time to hear it: bytes that arrive after that are dropped, and reset nothing.
Rule 6: a handshake that was denied is an answer like any other, and no error.
"""

from __future__ import annotations

import asyncio
from email.utils import formatdate
from typing import Any, Final, cast

from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import STATUS_PHRASES, WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State

from serve_bridge.http.headers import HOP_BY_HOP
from serve_bridge.http_server.answer_writer import chunk
from serve_bridge.http_server.buffers import Share
from serve_bridge.http_server.pace import Pace
from serve_bridge.http_server.places import Place
from serve_bridge.http_server.refusal import Refusal
from serve_bridge.http_server.refusing_app import REFUSAL
from serve_bridge.http_server.state import ServerState
from serve_bridge.http_server.websocket_handshake import RefusingFrameProtocol
from serve_bridge.http_server.websocket_pieces import memory_of
from serve_bridge.http_server.websocket_transport import LingeringTransport

__all__ = ["WebSocketConnection"]

DEFLATE: Final = ServerPerMessageDeflateFactory(
    server_max_window_bits=12, client_max_window_bits=12, compress_settings={"memLevel": 5, "level": 3}
)
"""Takes 45 KiB a connection. A level above makes text 5 % shorter, for half as much CPU again."""
HELD_BYTES: Final = 64 * 1024
"""Bytes that are taken from a client which does not wait for the answer to its handshake."""
DRAIN_CLOSE_S: Final = 2.0
"""How long a client may take to answer the close of a proxy that drains."""
CONTROLS_PER_S: Final = 1000
"""Pings and pongs that a client may send, for longer than a moment."""
FRAGMENTS_PER_S: Final = 1000
MOST_FRAGMENTS: Final = 32 * 1024
"""Upper limit for the number of tiny fragments that a client may send at once, beside `FRAGMENTS_PER_S`."""


class WebSocketConnection(WebSocketsSansIOProtocol):
    """uvicorn's protocol: handshake, frames, compression, pings, limits."""

    transport: LingeringTransport  # type: ignore[assignment]
    place: Place
    conn: RefusingFrameProtocol

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._state = server_state
        self.conn = RefusingFrameProtocol(
            server_state.refusals, extensions=[DEFLATE], max_size=config.ws_max_size, logger=self.logger
        )
        self._received = bytearray()
        self._in_line = False
        self._queued = self._taken = 0
        self._share = Share(server_state.buffers)
        self._controls = 0.0
        self._refused: tuple[Refusal, str] | None = None
        self._denying = self._chunked = False
        self._waiting = self._last = 0
        self._pace = Pace(server_state.options.min_answer_rate)
        self._left_to_take = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over a connection of HTTP."""
        super().connection_made(transport)
        self.transport = LingeringTransport(cast(asyncio.Transport, transport), self.conn, self._state)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application that its client has gone: with 1006, if it has not said so."""
        if self.handshake_complete and not self.close_sent and self.conn.close_rcvd is None:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": CloseCode.ABNORMAL_CLOSURE, "reason": ""})
        super().connection_lost(exc)
        self._share.give_back()
        self._received.clear()
        self.conn.forget()
        self.place.give_back()
        self._state.connection_closed()

    def sweep(self, now: float, elapsed: float) -> None:
        """Abort if the client has taken nothing for too long; *elapsed* seconds after the last sweep."""
        self._controls = max(0.0, self._controls - elapsed * CONTROLS_PER_S)
        self.conn.tiny_fragments = max(0, self.conn.tiny_fragments - int(elapsed * FRAGMENTS_PER_S))
        unsent, limit_s = self.transport.get_write_buffer_size(), self._state.write_timeout_s
        taken = self._left_to_take + self.transport.written - unsent
        self._left_to_take = unsent
        self.transport.written = 0
        self._count()
        if not unsent:
            self._pace.left_s = limit_s
        elif self._pace.spend(elapsed, taken, limit_s):
            self.transport.abort()

    def shutdown(self) -> None:
        """Close with 1012, as soon as the handshake is answered: the service restarts."""
        self.stop_keepalive()
        if self.handshake_complete and not self.close_sent and self.conn.state is State.OPEN:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": CloseCode.SERVICE_RESTART, "reason": ""})
            self.conn.send_close(CloseCode.SERVICE_RESTART)
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
            self.close_timer = self.loop.call_later(DRAIN_CLOSE_S, self.transport.close)
            self.read_paused = False
            self._go_on()

    # The handshake

    def shake_hands(
        self, path: str, headers: list[tuple[bytes, bytes]], refused: tuple[Refusal, str] | None = None
    ) -> None:
        """Begin the handshake that *headers* ask for; *refused*: why it is refused, and the request's id."""
        self._refused = refused
        fields = Headers()
        for name, value in headers:
            fields[name.decode("ascii")] = value.decode("latin-1")
        self.handle_connect(Request(path, fields))

    async def run_asgi(self) -> None:
        """Serve; that a connection ends, or what is forwarded, is no error of the application."""
        if self._refused is not None:
            cast(dict[str, Any], self.scope)[REFUSAL] = self._refused
        try:
            await self.app(self.scope, self.receive, self.send)
        except (ClientDisconnected, ConnectionError, asyncio.CancelledError):
            pass
        except BaseException:
            self.logger.exception("a WebSocket failed")
        if self._denying and not self.close_sent:
            self.transport.abort()  # so that nobody takes the answer for whole
        elif not self.handshake_complete:
            self.send_500_response()
        while not self.queue.empty():  # no reader takes these any more
            self.queue.get_nowait()
        if self.close_timer is None:
            self.transport.close()

    async def send(self, message: Any) -> None:
        """Write one ASGI message; wait first while the client takes nothing."""
        if message["type"] == "websocket.http.response.body" and self.initial_response is not None:
            await self._deny(message["body"], last=not message.get("more_body", False))
        else:
            size = memory_of(message.get("text") or message.get("bytes") or b"")
            if not self.writable.is_set():
                self._waiting = size
                self._count()
            await super().send(message)
            self._waiting, self._last = 0, size
            if size > HELD_BYTES:
                self._count()
        if message["type"] == "websocket.accept" and self._state.draining:
            self.shutdown()
        elif message["type"] in ("websocket.accept", "websocket.close"):
            self._go_on()

    async def _deny(self, body: bytes, *, last: bool) -> None:
        """Send a part of the answer that denies the handshake; the connection ends with it."""
        await self.writable.wait()
        if self.disconnected:
            raise ClientDisconnected
        assert self.initial_response is not None
        if not self._denying:
            self._denying = True
            status, given, _ = self.initial_response
            headers = Headers([pair for pair in given if pair[0].lower().encode() not in HOP_BY_HOP])
            headers["Connection"] = "close"
            headers.setdefault("Date", formatdate(usegmt=True))
            if last:
                headers.setdefault("Content-Length", str(len(body)))
            self._chunked = "Content-Length" not in headers
            if self._chunked:
                headers["Transfer-Encoding"] = "chunked"
            self.conn.send_response(Response(status, STATUS_PHRASES[status], headers))
            self.transport.write(b"".join(self.conn.data_to_send()))
        if self._chunked:
            body = chunk(body, last=last)
        self.transport.write(body)
        if last:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": CloseCode.ABNORMAL_CLOSURE})
            self.handshake_complete = self.close_sent = True
            self.transport.close()

    # From bytes to messages

    def data_received(self, data: bytes) -> None:
        """Take what has arrived, as far as the application is not behind."""
        if self.transport.is_closing():
            return
        self._received += data
        self._go_on()

    async def receive(self) -> Any:
        """Return the next ASGI message."""
        self._taken = 0
        message = await self.queue.get()
        self._taken, self._queued = self._queued, 0
        if self.queue.empty():
            self.read_paused = False
            self._go_on()
        return message

    def _go_on(self, *, granted: bool = False) -> None:
        """Work off what was received until a message is whole that the application has not yet taken.

        The client is read from only if all of that was worked off. *granted*: it is this connection's turn.
        """
        received, conn, turns = self._received, self.conn, self._state.turns
        while self.handshake_complete and not self.read_paused and not self.transport.is_closing():
            if self._in_line or not (turns.free or (granted and turns.left > 0)):
                if not self._in_line:
                    self._in_line = True
                    turns.wait(self._take_turn)
                break
            cost = conn.read(received, turns.left)
            if not cost:
                break
            turns.spend(cost)
            if conn.events:
                self.handle_events()
            if conn.message is not None:
                self._hand_over(conn.take_message())
            if conn.parser_exc is not None:
                self.handle_parser_exception()
            elif conn.tiny_fragments > MOST_FRAGMENTS:
                self._fail(CloseCode.POLICY_VIOLATION, "too many fragments")
        self._count()
        if self.transport.is_closing():
            received.clear()
        elif self.read_paused or self._in_line or len(received) >= HELD_BYTES:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def _take_turn(self) -> None:
        self._in_line = False
        if not self.disconnected:
            self._go_on(granted=True)

    def _count(self) -> None:
        """Count what is here of messages, either way; give up one that grows where there is no room."""
        if self.disconnected:
            return
        growing = len(self._received) + self.conn.held
        self._share.set(growing + self._queued + self._taken + self._leaving())
        behind = self.read_paused or self.close_sent  # then it is not the client who goes on
        if growing > HELD_BYTES and self._state.buffers.full and not behind:
            self._state.buffers.refused()
            self._fail(CloseCode.TRY_AGAIN_LATER, "the server holds too much for others")

    def _leaving(self) -> int:
        """Return how many bytes of the answers are here: those on their way out, and those that may be behind them."""
        unsent: int = self.transport.get_write_buffer_size()
        if not unsent:
            return 0
        unsent = max(unsent, self._last)  # a message stays whole until its last byte has left
        return unsent if self.writable.is_set() else unsent + self._waiting + self._state.answer_window_bytes

    def handle_events(self) -> None:
        """Handle control frames; messages do not come this way."""
        for event in self.conn.events_received():
            assert isinstance(event, Frame)
            if event.opcode is Opcode.PING:
                self.handle_ping()
            elif event.opcode is Opcode.PONG:
                self.handle_pong(event)
            else:
                self.handle_close(event)

    def _hand_over(self, message: str | bytes) -> None:
        """Hand a whole message over, and work off no more until it is taken."""
        if self.close_sent:  # the client did not know yet
            return
        if isinstance(message, str):
            self.queue.put_nowait({"type": "websocket.receive", "text": message})
        else:
            self.queue.put_nowait({"type": "websocket.receive", "bytes": message})
        self._queued = memory_of(message)
        self.read_paused = True

    def _fail(self, code: CloseCode, reason: str) -> None:
        if self.conn.state is State.OPEN:
            self.conn.fail(code, reason)
            self.handle_parser_exception()

    # Pings

    def handle_ping(self) -> None:
        """Answer."""
        super().handle_ping()
        self._count_control()

    def handle_pong(self, event: Frame) -> None:
        """Take the answer to a ping of ours, or one to none."""
        super().handle_pong(event)
        self._count_control()

    def _count_control(self) -> None:
        self._controls += 1
        if self._controls > CONTROLS_PER_S:
            self._fail(CloseCode.POLICY_VIOLATION, "too many pings")

    def keepalive_timeout(self) -> None:
        """Close, unless the pong may lie in what back-pressure keeps us from reading; then ask again."""
        if not self.read_paused:
            super().keepalive_timeout()
            return
        self.pong_timer = self.pending_ping_payload = None
        self.schedule_ping()
