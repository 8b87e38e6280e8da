"""One WebSocket of the edge: uvicorn's protocol over `websockets`, with what it leaves open closed.

Rule 1: who does not read is not taken for dead while it is our side that does not.
Rule 2: a handshake that was denied is an answer like any other, and no error.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

__all__ = ["EdgeWebSocket"]


class EdgeWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's protocol: handshake, frames, compression, pings, limits."""

    async def send(self, message: Any) -> None:
        """Write one ASGI message; wait first while the client takes nothing."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True

    def keepalive_timeout(self) -> None:
        """Close, unless the pong may lie in what back-pressure keeps us from reading; then ask again."""
        if not self.read_paused:
            super().keepalive_timeout()
            return
        self.pong_timer = self.pending_ping_payload = None
        self.schedule_ping()
