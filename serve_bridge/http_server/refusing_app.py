"""The application for requests that the server answers itself.

A readable request passes the middlewares even if it is refused. The connection puts the refusal into
the scope under `REFUSAL`, and `RefusingApp`, inside the middlewares, answers it. It also answers ``OPTIONS *``, which
concerns the server, not a route.
"""

from __future__ import annotations

from collections.abc import Awaitable
from http import HTTPStatus
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from serve_bridge.http.answers import Answer, refusal_answer
from serve_bridge.http_server.refusal import Refusal
from serve_bridge.http_server.server_answers import send_answer

__all__ = ["REFUSAL", "RefusingApp", "answer_of"]

REFUSAL: Final = "serve_bridge.refusal"
"""Key of the ASGI scope of a refused request. The value is a `Refusal` and the id of the request."""


class RefusingApp:
    """Passes a request on to the application, or answers it if it was refused or concerns the server."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve or refuse one request."""
        if REFUSAL in scope:
            return _refuse(scope, receive, send)
        if scope["path"] == "*":
            return send_answer(send, Answer(204, [], b""))
        return self._app(scope, receive, send)


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    answer = answer_of(*scope[REFUSAL])
    if scope["type"] == "websocket":
        await receive()
        head = {"type": "websocket.http.response.start", "status": answer.status, "headers": answer.headers}
        await send(head)  # this server always has the extension for denials
        await send({"type": "websocket.http.response.body", "body": answer.body})
    else:
        await send_answer(send, answer)


def answer_of(refusal: Refusal, request_id: str) -> Answer:
    """Return the answer to a refused request: a problem document (RFC 9457) with the id of the request."""
    is_busy = refusal.status == HTTPStatus.SERVICE_UNAVAILABLE
    executed = "no" if is_busy else None
    answer = refusal_answer(refusal.status, refusal.reason, request_id, executed=executed, retry=is_busy)
    answer.headers.extend(refusal.headers)
    return answer
