"""The connection to one client, as its parts see it."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from uvicorn.protocols.http.flow_control import FlowControl

from serve_bridge.http_server.http_scope import ConnectionScope
from serve_bridge.http_server.places import Place
from serve_bridge.http_server.request_head import RequestHead
from serve_bridge.http_server.send_queue import SendQueue
from serve_bridge.http_server.state import ServerState

__all__ = ["ClientConnection", "TurnFlow"]


class TurnFlow(FlowControl):
    """Flow control for a connection with turns. It reads no bytes while the connection waits for its turn.

    Attributes:
        in_line: Whether the connection waits.
    """

    in_line = False

    def resume_reading(self) -> None:
        """Read again. If the connection waits for its turn, it reads once the turn begins."""
        if not self.in_line:
            super().resume_reading()


class ClientConnection(Protocol):
    """The transport's side of a connection.

    Attributes:
        gave_up: No answer can be sent any more: the connection is lost, was refused, or became a WebSocket.
        half_closed: The client has ended its own side, and still waits for its answer.
        is_tls: Whether the connection is encrypted.
    """

    flow: TurnFlow
    gave_up: bool
    half_closed: bool
    is_tls: bool
    logger: logging.Logger
    loop: asyncio.AbstractEventLoop
    place: Place
    queue: SendQueue
    scope: ConnectionScope
    server_state: ServerState
    transport: asyncio.Transport

    def write(self, data: bytes) -> None:
        """Write bytes of an answer. If none can be sent any more, do nothing."""

    def upgrade(self, head: RequestHead, rest: bytes) -> None:
        """Hand the connection over to a WebSocket; *rest*: the bytes after the head."""
