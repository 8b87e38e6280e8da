"""An ASGI application over one forwarded route."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from serve_bridge.adapters.bridge import Bridge, Outcome
from serve_bridge.adapters.route import ForwardedRoute


async def answer(
    bridge: Bridge,
    route: ForwardedRoute,
    path_params: Mapping[str, Any],
    scope: Scope,
    receive: Receive,
    send: Send,
    web_request: Any = None,
) -> None:
    """Forward one request and send what comes back.

    Raises:
        HTTPException: The request failed inside an application, whose own handlers shape the answer.
    """
    outcome = await bridge.ask_async(route, scope, path_params, receive, web_request)
    if outcome.error is not None and "app" in scope:
        raise _exception(outcome)
    await send({"type": "http.response.start", "status": outcome.status, "headers": outcome.headers})
    if isinstance(outcome.body, bytes):
        await send({"type": "http.response.body", "body": outcome.body})
        return
    async with aclosing(outcome.body) as chunks:
        async for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body"})


def _exception(outcome: Outcome) -> HTTPException:
    own = {"x-request-id", "x-serve-executed", "retry-after"}
    return HTTPException(outcome.status, headers={k: v for k, v in outcome.text_headers if k in own})
