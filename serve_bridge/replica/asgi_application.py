"""An ASGI application in a replica: its lifespan, its requests and its WebSockets.

Rule 1: the replica is the application's ASGI server (ASGI 3.0, spec version 2.4).
Rule 2: a breach of the protocol raises an error in the application at that point. The client gets a 500 or a broken
        answer, never an incomplete one that looks complete.
"""

from __future__ import annotations

import logging
from typing import Any

from starlette.types import ASGIApp, Message

from serve_bridge.http.headers import TRAILERS
from serve_bridge.replica.failures import end_failed
from serve_bridge.replica.http_requests import mount_point, scope_of
from serve_bridge.replica.lifespan import Lifespan
from serve_bridge.replica.request_body import Receiver
from serve_bridge.replica.response_sender import ResponseSender
from serve_bridge.replica.websocket_handshake import websocket_scope
from serve_bridge.replica.websocket_session import ClientDisconnected
from serve_bridge.replica.websockets import WebSockets
from serve_bridge.user_code.method import Method
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.heads import HttpHead
from serve_bridge.wire.replica_end import ReplicaStream

_START, _BODY = "http.response.start", "http.response.body"

_logger = logging.getLogger("serve_bridge.replica")


class AsgiService:
    """Answers the requests of one replica with an ASGI application."""

    def __init__(self, app: ASGIApp, websockets: WebSockets) -> None:
        self._app = app
        self._websockets = websockets
        self._lifespan = Lifespan(app)

    async def begin(self) -> None:
        """Run the startup of the application.

        Raises:
            BaseException: The application failed with it.
        """
        await self._lifespan.startup()

    async def end(self, timeout_s: float) -> None:
        """Run the shutdown of the application, for at most *timeout_s* seconds."""
        await self._lifespan.shutdown(timeout_s)

    def close(self) -> None:
        """Cancel the lifespan if it still runs."""
        self._lifespan.close()

    async def answer_http(self, method: Method, head: HttpHead, stream: ReplicaStream) -> None:
        """Let the application answer a request."""
        scope = self._scope(scope_of(head), head)
        scope["type"] = "http"
        scope["method"] = head.method
        sender = _Sender(head, stream)
        try:
            result: Any = await self._app(scope, Receiver(head, stream), sender)  # type: ignore[func-returns-value]  # an application may return a value all the same
            sender.check_ended(result)
        except BaseException as error:  # an error caused by a client that has left is not a failure
            end_failed(stream, head, error, left=sender.has_left())

    async def answer_websocket(self, method: Method, head: HttpHead, stream: ReplicaStream) -> None:
        """Let the application serve a WebSocket."""
        await self._websockets.serve(self._app, self._scope(websocket_scope(head), head), head, stream)

    def _scope(self, scope: dict[str, Any], head: HttpHead) -> dict[str, Any]:
        root_path = mount_point(head)
        if root_path or head.root_path is not None:
            scope["root_path"] = root_path
        scope["state"] = {**self._lifespan.state, **scope["state"]}
        return scope


class _Sender:
    """The ASGI `send` of one request."""

    __slots__ = ("_expected", "_has_trailers", "_left", "_send", "_stream")

    def __init__(self, head: HttpHead, stream: ReplicaStream) -> None:
        self._stream = stream
        self._send = ResponseSender(stream, has_no_body=head.method == "HEAD", takes_trailers=head.trailers)
        self._has_trailers = False
        self._expected: str | None = _START
        self._left = False

    async def __call__(self, message: Message) -> None:
        """Send one message of the answer.

        Raises:
            OSError: The client has left.
            RuntimeError: The protocol expects another message here.
        """
        if self._expected == _BODY and self._send.passes(message):
            return
        kind = message["type"]
        if kind != self._expected:
            due = f"{self._expected!r} is due" if self._expected else "the answer is complete"
            raise RuntimeError(f"unexpected ASGI message {kind!r}: {due}")
        try:
            await self._send(message)
        except Lost:
            self._left = True
            raise ClientDisconnected("the client has left") from None
        if kind == _START:
            self._expected = _BODY
            self._has_trailers = message.get("trailers", False)
        elif kind == _BODY and not message.get("more_body", False):
            self._expected = TRAILERS if self._has_trailers else None
        elif kind == TRAILERS and not message.get("more_trailers", False):
            self._expected = None

    def has_left(self) -> bool:
        """Return whether the client left before the end of the answer, or the application was told so."""
        return self._left or (self._expected is not None and not self._stream.may_send())

    def check_ended(self, result: object) -> None:
        """Check the answer after the application has returned *result*.

        Raises:
            RuntimeError: The answer is missing or incomplete, or *result* is not None.
        """
        if result is not None:
            raise RuntimeError(f"the ASGI application returned {type(result).__name__} where None is expected")
        if self._expected is not None and self._stream.may_send():
            raise RuntimeError(f"the ASGI application returned without {self._expected!r}")
