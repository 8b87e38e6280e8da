"""WebSockets that are not forwarded: their handshake is answered with an outcome."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from serve_bridge.adapters.bridge.outcome import Outcome
from serve_bridge.http.answers import Answer


async def refuse_websocket(outcome: Outcome, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a handshake, of which nothing was received yet, with *outcome*."""
    if (await receive())["type"] == "websocket.connect":
        await deny_websocket(outcome, scope, send)


async def deny_websocket(outcome: Outcome, scope: Scope, send: Send) -> None:
    """Answer a handshake whose `websocket.connect` was received with *outcome*."""
    from serve_bridge.forwarding.websocket import deny  # late: it is loaded with the bridge of an app, before a fork

    await deny(scope, send, Answer(outcome.status, outcome.headers, outcome.body))
