"""The WebSockets of a replica: each is served by one `async def` of user code, from its handshake to its close.

Rule 1: user code has Starlette's `WebSocket`; under it this module does what an ASGI server does.
Rule 2: a client that leaves does not cancel: user code is told, and has `LEAVE_GRACE_S` to come to its end.
Rule 3: a failure of user code is a 500 before the handshake is answered, and code 1011 after it; why is for the log.
"""

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
    """The WebSockets that a replica serves at the moment."""

    def __init__(self) -> None:
        self._served: set[WebSocketSession] = set()

    def __len__(self) -> int:
        return len(self._served)

    async def answer(self, executor: Executor, method: Method, head: HttpHead, stream: ReplicaStream) -> None:
        """Let *method* serve the WebSocket that *head* asks for, until it is closed."""
        if not method.is_async or method.is_generator or method.batched or method.takes == "nothing":
            deny_websocket(head, stream)
            return

        async def converse(scope: Scope, receive: Receive, send: Send) -> None:
            await executor.run(method, *method.arguments(WebSocket(scope, receive, send), {}))

        await self.serve(converse, websocket_scope(head), head, stream)

    async def serve(self, app: ASGIApp, scope: Scope, head: HttpHead, stream: ReplicaStream) -> None:
        """Let *app* serve the WebSocket that *head* asks for, and *scope* describes, until it is closed."""
        # The time the caller gave is for the handshake, and the caller ends one that takes longer.
        lift_deadline()
        served = WebSocketSession(head, stream)
        self._served.add(served)
        try:
            await served.serve(app, scope)
        finally:
            served.end()
            self._served.discard(served)

    def go_away(self) -> None:
        """End those that are open: their clients see that the server is going away."""
        for served in list(self._served):
            served.go_away()
