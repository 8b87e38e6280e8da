"""The answers that the edge gives by itself."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Final

from starlette.types import Receive, Scope, Send

from serve_bridge.forwarding import RETRY_AFTER_S
from serve_bridge.proxy.http_exchange import status_line

__all__ = ["answer_asterisk", "problem"]

_NOT_STARTED: Final = b"retry-after: %d\r\nx-serve-executed: no\r\n" % RETRY_AFTER_S


async def answer_asterisk(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer ``OPTIONS *``, which asks for the server and no route, with an empty 204."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


def problem(status: int, reason: str, request_id: str) -> bytes:
    """Return the bytes of an answer that refuses a request (RFC 9457) and closes the connection."""
    title = HTTPStatus(status).phrase
    body = json.dumps({"title": title, "status": status, "detail": reason, "request_id": request_id}).encode()
    return b"%scontent-type: application/problem+json\r\ncontent-length: %d\r\nx-request-id: %s\r\n%s%s\r\n%s" % (
        status_line(status),
        len(body),
        request_id.encode(),
        _NOT_STARTED if status == HTTPStatus.SERVICE_UNAVAILABLE else b"",
        b"connection: close\r\n",
        body,
    )
