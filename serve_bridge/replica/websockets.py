"""The WebSockets of a replica. One `async def` of user code serves each of them, from its handshake to its close."""

from __future__ import annotations

import logging

from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from serve_bridge.context import lift_deadline
from serve_bridge.replica.executor import Executor
from serve_bridge.replica.websocket_handshake import deny_websocket, websocket_scope
from serve_bridge.replica.websocket_session import WebSocketSession
from serve_bridge.user_code.method import Method
from serve_bridge.wire.heads import HttpHead
from serve_bridge.wire.replica_end import ReplicaStream

_logger = logging.getLogger("serve_bridge.replica")


class WebSockets:
    """The open WebSockets of one replica."""

    def __init__(self) -> None:
        self._served: set[WebSocketSession] = set()

    def __len__(self) -> int:
        return len(self._served)

    async def answer(self, executor: Executor, method: Method, head: HttpHead, stream: ReplicaStream) -> None:
        """Let *method* serve the WebSocket requested by *head*, until it is closed."""
        if not method.is_async or method.is_generator or method.batched or method.takes == "nothing":
            deny_websocket(head, stream)
            return

        async def converse(scope: Scope, receive: Receive, send: Send) -> None:
            await executor.run(method, *method.arguments(WebSocket(scope, receive, send), {}))

        await self.serve(converse, websocket_scope(head), head, stream)

    async def serve(self, app: ASGIApp, scope: Scope, head: HttpHead, stream: ReplicaStream) -> None:
        """Let *app* serve the WebSocket requested by *head* and described by *scope*, until it is closed."""
        # The deadline is for the handshake only, and the caller itself ends a handshake that takes longer.
        lift_deadline()
        served = WebSocketSession(head, stream)
        self._served.add(served)
        try:
            await served.serve(app, scope)
        finally:
            served.end()
            self._served.discard(served)

    def go_away(self) -> None:
        """Close the open WebSockets: their clients get the code for "going away"."""
        for served in list(self._served):
            served.go_away()
