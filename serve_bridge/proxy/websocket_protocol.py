"""One WebSocket of the edge: uvicorn's protocol over `websockets`, with what it leaves open closed.

Rule 1: who does not read is not taken for dead while it is our side that does not.
Rule 2: who takes nothing of what is sent is cut off as over HTTP, after `write_timeout_s`.
Rule 3: a handshake that was denied is an answer like any other, and no error.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from serve_bridge.proxy.http_protocol import EdgeState

__all__ = ["EdgeWebSocket"]

VERSION: Final = "13"


class EdgeWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's protocol: handshake, frames, compression, pings, limits."""

    def __init__(self, config: Config, server_state: EdgeState, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._write_timeout_s = server_state.options.write_timeout_s
        self._sent = self._unsent = 0
        self._stalled = 0.0

    def sweep(self, now: float, elapsed: float) -> None:
        """Abort if the client has taken nothing for too long; *elapsed* seconds after the last sweep."""
        unsent = self.transport.get_write_buffer_size()
        took = unsent < self._unsent or self._sent > 0
        self._stalled = 0.0 if took or not unsent else self._stalled + elapsed
        self._unsent, self._sent = unsent, 0
        if self._stalled > self._write_timeout_s:
            self.transport.abort()

    def handle_connect(self, event: Request) -> None:
        """Begin the handshake; a client of another version is told which one is spoken (RFC 6455 section 4.4)."""
        if event.headers.get_all("Sec-WebSocket-Version") == [VERSION]:
            super().handle_connect(event)
            return
        answer = self.conn.reject(HTTPStatus.UPGRADE_REQUIRED, f"only version {VERSION} is spoken here\n")
        answer.headers["Sec-WebSocket-Version"] = VERSION
        self.handshake_initiated = self.handshake_complete = self.close_sent = True
        self.conn.send_response(answer)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.close()

    async def send(self, message: Any) -> None:
        """Write one ASGI message; wait first while the client takes nothing."""
        await super().send(message)
        self._sent += 1
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True

    def keepalive_timeout(self) -> None:
        """Close, unless the pong may lie in what back-pressure keeps us from reading; then ask again."""
        if not self.read_paused:
            super().keepalive_timeout()
            return
        self.pong_timer = self.pending_ping_payload = None
        self.schedule_ping()
