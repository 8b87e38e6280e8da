"""The transport of a WebSocket, which closes without losing the last frames."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.utils import is_ssl

from serve_bridge.http_server.lingering import ANSWER_LINGER_S, DRAIN_LINGER_S
from serve_bridge.http_server.state import ServerState
from serve_bridge.http_server.websocket_frames import FrameProtocol

__all__ = ["LingeringTransport"]


class LingeringTransport:
    """A transport like the wrapped one, except for `close`.

    If the client has not sent a close frame, `close` ends the server's own direction only, and the connection stays
    open for a moment. So late bytes of the client do not reset the connection before it has read the last frames.

    Attributes:
        written: Number of bytes written since the owner last set it to 0.
    """

    def __init__(self, transport: asyncio.Transport, frames: FrameProtocol, state: ServerState) -> None:
        self.written: int = 0
        self._transport = transport
        self._frames = frames
        self._state = state
        self._closing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Return whether `close` was called, or the connection is lost."""
        return self._closing or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Write *data*, unless `close` was called."""
        if not self._closing:
            self.written += len(data)
            self._transport.write(data)

    def close(self) -> None:
        """Close the connection, after a moment if the client has not sent a close frame."""
        if self.is_closing():
            return
        self._closing = True
        transport = self._transport
        if self._frames.close_rcvd is not None:
            transport.close()
            return
        if not is_ssl(transport):  # TLS cannot end one direction alone
            transport.write_eof()
        transport.resume_reading()
        linger_s = DRAIN_LINGER_S if self._state.draining else ANSWER_LINGER_S
        asyncio.get_running_loop().call_later(linger_s, transport.close)
