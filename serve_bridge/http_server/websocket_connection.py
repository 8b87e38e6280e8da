"""One WebSocket connection: uvicorn's protocol over `websockets`, with limits and back-pressure.

Rule 1: the connection holds at most one complete message for the application, and the bytes of one more read. It
handles received bytes in steps, and shares the turns of the loop with other connections.
Rule 2: while the buffers are full, a growing message closes the WebSocket with 1013.
Rule 3: a missing pong does not close the WebSocket while the server itself does not read from it.
Rule 4: if a client receives no byte for `write_timeout_s`, the connection is aborted, as over HTTP. Too many pings
close the WebSocket.
Rule 5: after a close, the client has time to read the close frame. In this time the server drops received bytes, so
they do not reset the connection.
Rule 6: a denied handshake is an answer like any other, not an error.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final, cast

from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State

from serve_bridge.http_server.buffers import Share
from serve_bridge.http_server.pace import Pace
from serve_bridge.http_server.places import Place
from serve_bridge.http_server.refusal import Refusal
from serve_bridge.http_server.refusing_app import REFUSAL
from serve_bridge.http_server.state import ServerState
from serve_bridge.http_server.websocket_handshake import Denial, RefusingFrameProtocol, WarningLogger
from serve_bridge.http_server.websocket_pieces import memory_of
from serve_bridge.http_server.websocket_transport import LingeringTransport

__all__ = ["WebSocketConnection"]

DEFLATE: Final = ServerPerMessageDeflateFactory(
    server_max_window_bits=12, client_max_window_bits=12, compress_settings={"memLevel": 5, "level": 3}
)
"""Compression settings. They take 45 KiB per connection. One level more makes text 5 % shorter, for 50 % more CPU."""
HELD_BYTES: Final = 64 * 1024
"""Number of held bytes of one connection up to which it reads on, even before its handshake is answered.

Up to this number, full buffers do not close the WebSocket.
"""
LONG_HEAD_BYTES: Final = 8 * 1024
"""Number of bytes from which the header fields of a handshake count as held, because a WebSocket may stay for days."""
DRAIN_CLOSE_S: Final = 2.0
"""Upper limit for the time in seconds in which a client answers the close frame of a draining server."""
CONTROLS_PER_S: Final = 1000
"""Upper limit for the pings and pongs of one client per second, and for a burst of them."""
FRAGMENTS_PER_S: Final = 1000
"""Upper limit for the tiny fragments of one client per second."""
MOST_FRAGMENTS: Final = 32 * 1024
"""Upper limit for a burst of tiny fragments."""


class WebSocketConnection(WebSocketsSansIOProtocol):
    """One WebSocket, from the handshake to its close.

    Attributes:
        place: The connection's place in the limit of the server.
        conn: The frames of the connection.
    """

    transport: LingeringTransport  # type: ignore[assignment]
    place: Place
    conn: RefusingFrameProtocol

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._state = server_state
        self.logger = cast(logging.Logger, WarningLogger(server_state.logger))
        self.conn = RefusingFrameProtocol(
            server_state.refusals, extensions=[DEFLATE], max_size=config.ws_max_size, logger=self.logger
        )
        self._received = bytearray()
        self._in_line = False
        self._queued = self._taken = 0
        self._share = Share(server_state.buffers)
        self._controls = 0.0
        self._refused: tuple[Refusal, str] | None = None
        self._denial: Denial | None = None
        self._waiting = self._last = self._head = 0
        self._pace = Pace(server_state.options.min_answer_rate)
        self._left_to_take = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over an HTTP connection."""
        super().connection_made(transport)
        self.transport = LingeringTransport(cast(asyncio.Transport, transport), self.conn, self._state)
        self._left_to_take = self.transport.get_write_buffer_size()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application about the end of the connection: 1006 if the client sent no close frame."""
        if self.handshake_complete and not self.close_sent and self.conn.close_rcvd is None:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": CloseCode.ABNORMAL_CLOSURE, "reason": ""})
        super().connection_lost(exc)
        self._share.give_back()
        self._received.clear()
        self.conn.forget()
        self.place.give_back()
        self._state.connection_closed()

    def sweep(self, now: float, elapsed: float) -> None:
        """Abort if the client has received no byte for too long; *elapsed*: seconds since the last sweep."""
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
        """Close with 1012 (service restart) once the handshake is answered."""
        self.stop_keepalive()
        if self.handshake_complete and not self.close_sent and self.conn.state is State.OPEN:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": CloseCode.SERVICE_RESTART, "reason": ""})
            self.conn.send_close(CloseCode.SERVICE_RESTART)
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent: bool = True
            self.close_timer = self.loop.call_later(DRAIN_CLOSE_S, self.transport.close)
            self.read_paused: bool = False
            self._go_on()

    # The handshake

    def shake_hands(
        self, path: str, headers: list[tuple[bytes, bytes]], refused: tuple[Refusal, str] | None = None
    ) -> None:
        """Begin the handshake.

        Args:
            path: The target of the request, with its query.
            headers: The header fields of the request.
            refused: The reason why the server refuses the request, and the id of the request; None: it does not.
        """
        self._refused = refused
        fields = Headers()
        size = 0
        for name, value in headers:
            fields[name.decode("ascii")] = value.decode("latin-1")
            size += len(name) + len(value)
        if size >= LONG_HEAD_BYTES:
            self._head = 2 * size  # as text for `websockets`, and as bytes in the scope
            self._count()
        self.handle_connect(Request(path, fields))

    async def run_asgi(self) -> None:
        """Run the application. The end of the connection, or of a forwarded one, is not logged as an error."""
        if self._refused is not None:
            cast(dict[str, Any], self.scope)[REFUSAL] = self._refused
        try:
            await self.app(self.scope, self.receive, self.send)
        except (ClientDisconnected, ConnectionError, asyncio.CancelledError):
            pass
        except BaseException:
            self.logger.exception("a WebSocket failed")
        if self._denial is not None and not self.close_sent:
            self.transport.abort()  # otherwise the client could take the answer for complete
        elif not self.handshake_complete:
            self.send_500_response()
        while not self.queue.empty():  # the application has ended, and reads no more messages
            self.queue.get_nowait()
        if self.close_timer is None:
            self.transport.close()

    async def send(self, message: Any) -> None:
        """Write one ASGI message. If the client is behind, wait first."""
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
        """Deny the handshake: send a part of the answer. The connection ends after the last part."""
        await self.writable.wait()
        if self.disconnected:
            raise ClientDisconnected
        assert self.initial_response is not None
        if self._denial is None:
            status, given, _ = self.initial_response
            self._denial = Denial(status, given, len(body) if last else None)
            self.conn.send_response(self._denial.response)
            self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.write(self._denial.framed(body, last=last))
        if last:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": CloseCode.ABNORMAL_CLOSURE})
            self.handshake_complete = self.close_sent = True
            self.transport.close()

    def pause_writing(self) -> None:
        """Pause messages and pongs: the client is behind."""
        super().pause_writing()
        self.conn.behind = True

    def resume_writing(self) -> None:
        """Send the latest pong, and resume messages."""
        self.conn.catch_up()
        if pong := b"".join(self.conn.data_to_send()):
            self.transport.write(pong)
        super().resume_writing()

    # From bytes to messages

    def data_received(self, data: bytes) -> None:
        """Handle received bytes. If the application is behind, keep them."""
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
        """Handle received bytes until one message is complete. It then waits for the application.

        The connection reads more bytes only if all bytes so far are handled.

        Args:
            granted: Whether this is the connection's own turn.
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
        """Count the bytes of messages in both directions. Close if a message grows while the buffers are full."""
        if self.disconnected:
            return
        growing = len(self._received) + self.conn.held
        self._share.set(self._head + growing + self._queued + self._taken + self._leaving())
        behind = self.read_paused or self.close_sent  # then the message grows through no fault of the client
        if growing > HELD_BYTES and self._state.buffers.full and not behind:
            self._state.buffers.refused()
            self._fail(CloseCode.TRY_AGAIN_LATER, "the server has reached its memory limit")

    def _leaving(self) -> int:
        """Return the number of sent bytes in memory: unsent ones, and others possibly waiting behind them."""
        unsent: int = self.transport.get_write_buffer_size()
        if not unsent:
            return 0
        unsent = max(unsent, self._last)  # a message stays in memory until its last byte is sent
        return unsent if self.writable.is_set() else unsent + self._waiting + self._state.answer_window_bytes

    def handle_events(self) -> None:
        """Handle control frames. Messages take another path."""
        for event in self.conn.events_received():
            assert isinstance(event, Frame)
            if event.opcode is Opcode.PING:
                self.handle_ping()
            elif event.opcode is Opcode.PONG:
                self.handle_pong(event)
            else:
                self.handle_close(event)

    def _hand_over(self, message: str | bytes) -> None:
        """Queue a complete message, and pause until the application receives it."""
        if self.close_sent:  # the client sent the message before it read the close frame
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
        """Answer a ping."""
        super().handle_ping()
        self._count_control()

    def handle_pong(self, event: Frame) -> None:
        """Take a pong, which may answer no ping."""
        super().handle_pong(event)
        self._count_control()

    def _count_control(self) -> None:
        self._controls += 1
        if self._controls > CONTROLS_PER_S:
            self._fail(CloseCode.POLICY_VIOLATION, "too many pings")

    def keepalive_timeout(self) -> None:
        """Close, because no pong was received. If reading is paused, the pong may be unread, so ping again instead."""
        if not self.read_paused:
            super().keepalive_timeout()
            return
        self.pong_timer = self.pending_ping_payload = None
        self.schedule_ping()
