"""The answer to the handshake of a refused WebSocket."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from serve_bridge.adapters.bridge.outcome import Outcome
from serve_bridge.http.answers import Answer


async def refuse_websocket(outcome: Outcome, scope: Scope, receive: Receive, send: Send) -> None:
    """Receive the `websocket.connect` of a handshake and answer it with *outcome*."""
    if (await receive())["type"] == "websocket.connect":
        await deny_websocket(outcome, scope, send)


async def deny_websocket(outcome: Outcome, scope: Scope, send: Send) -> None:
    """Answer a handshake with *outcome*, after its `websocket.connect` was received."""
    from serve_bridge.forwarding.websocket import deny  # late: the bridge of an app loads it, before a web server forks

    await deny(scope, send, Answer(outcome.status, outcome.headers, outcome.body))
