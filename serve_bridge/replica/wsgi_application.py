"""A WSGI application in a replica: each request runs on one of the replica's threads, from its head to its last byte.

Rule 1: `wsgiref` calls the application and checks its use of the protocol (PEP 3333). This package moves the bytes.
Rule 2: back-pressure holds in both directions. A piece of the answer is sent before the next one is requested, and a
        body is received as the application reads it.
"""

from __future__ import annotations

import logging
from contextlib import closing
from typing import TYPE_CHECKING

from serve_bridge.replica.executor import Executor
from serve_bridge.replica.failures import end_failed
from serve_bridge.replica.websocket_handshake import deny_websocket
from serve_bridge.replica.wsgi_handler import WsgiHandler
from serve_bridge.replica.wsgi_request import WsgiRequest
from serve_bridge.user_code.method import Method
from serve_bridge.wire.heads import HttpHead
from serve_bridge.wire.replica_end import ReplicaStream

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


_logger = logging.getLogger("serve_bridge.replica")


class WsgiService:
    """Answers the requests of one replica with a WSGI application."""

    def __init__(self, app: WSGIApplication, executor: Executor) -> None:
        self._app = app
        self._executor = executor
        self._method = Method.of("__call__", self._run, default=True)

    async def begin(self) -> None:
        """Do nothing: WSGI has no startup."""

    async def end(self, timeout_s: float) -> None:
        """Do nothing: WSGI has no shutdown."""

    def close(self) -> None:
        """Do nothing: the threads belong to the executor."""

    async def answer_http(self, method: Method, head: HttpHead, stream: ReplicaStream) -> None:
        """Let the application answer a request."""
        request = WsgiRequest(head, stream)
        try:
            await self._executor.run(self._method, (request,), {})
        except BaseException as error:  # an error caused by a client that has left is not a failure
            end_failed(stream, head, error, left=request.left)

    async def answer_websocket(self, method: Method, head: HttpHead, stream: ReplicaStream) -> None:
        """Refuse: WSGI has no WebSockets."""
        deny_websocket(head, stream)

    def _run(self, request: WsgiRequest) -> None:
        with closing(request):
            request.receive()
            WsgiHandler(request).run(self._app)
