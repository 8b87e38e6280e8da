"""The handshake of a WebSocket in a replica: its ASGI scope, and a refusal."""

from __future__ import annotations

from typing import Any, Final

from serve_bridge.http.answers import Answer, problem
from serve_bridge.replica.http_requests import scope_of
from serve_bridge.wire.heads import HttpAnswer, HttpHead, encode_head
from serve_bridge.wire.replica_end import ReplicaStream

_HANDSHAKE: Final = ((b"connection", b"Upgrade"), (b"upgrade", b"websocket"))
"""Headers which an HTTP/1.1 server leaves in the scope of a WebSocket. They are hop-by-hop, so heads lack them."""


def deny_websocket(head: HttpHead, stream: ReplicaStream) -> None:
    """Answer the handshake of a WebSocket at an endpoint without WebSockets."""
    deny(stream, head, 501, "Not Implemented", "this endpoint does not accept WebSockets")


def websocket_scope(head: HttpHead) -> dict[str, Any]:
    """Return the ASGI scope of the WebSocket requested by *head*."""
    return {
        **scope_of(head),
        "type": "websocket",
        "headers": [*head.headers, *_HANDSHAKE],
        "subprotocols": list(head.subprotocols or ()),
        "extensions": {"websocket.http.response": {}},
    }


def deny(stream: ReplicaStream, head: HttpHead, status: int, title: str, detail: str | None) -> None:
    """Answer a handshake with a problem document instead of a WebSocket."""
    answer: Answer = problem(status, title, detail, head.request_id)
    stream.respond(encode_head(HttpAnswer(answer.status, answer.headers, answer.body)), end=True)
