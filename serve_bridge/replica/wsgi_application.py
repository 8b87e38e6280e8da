"""A WSGI application in a replica: each request runs on one of the replica's threads, from its head to its last byte.

Rule 1: how an application is called, and what it may do when, is `wsgiref`'s to say (PEP 3333); the ways in and out are
        ours.
Rule 2: what leaves a thread has been taken before the next piece is asked for; what comes in is read as it is needed.
Rule 3: a header of the client becomes a variable `HTTP_...` and nothing else; none of those becomes HTTP_PROXY.
Rule 4: CONTENT_LENGTH is the length of the body, whatever its framing. Many applications read nothing without it.
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
    """Answers with one WSGI application."""

    def __init__(self, app: WSGIApplication, executor: Executor) -> None:
        self._app = app
        self._executor = executor
        self._method = Method.of("__call__", self._run, default=True)

    async def begin(self) -> None:
        """Do nothing: WSGI knows no start."""

    async def end(self, timeout_s: float) -> None:
        """Do nothing: WSGI knows no end."""

    def close(self) -> None:
        """Do nothing: the threads are the executor's."""

    async def answer_http(self, method: Method, head: HttpHead, stream: ReplicaStream) -> None:
        """Let the application answer a request."""
        request = WsgiRequest(head, stream)
        try:
            await self._executor.run(self._method, (request,), {})
        except BaseException as error:  # what an application makes of a client that has left is no failure
            end_failed(stream, head, error, left=request.left)

    async def answer_websocket(self, method: Method, head: HttpHead, stream: ReplicaStream) -> None:
        """Deny it: WSGI knows no WebSocket."""
        deny_websocket(head, stream)

    def _run(self, request: WsgiRequest) -> None:
        with closing(request):
            request.receive()
            WsgiHandler(request).run(self._app)
