"""Forwarding of requests and WebSockets over ASGI.

Rule 1: a Starlette request object is made only if the route has a `context`, which reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.requests import HTTPConnection, Request
from starlette.types import Receive, Scope, Send

from serve_bridge.adapters.asgi.answers import fail, send_answer
from serve_bridge.adapters.asgi.requester import ClientLeft, Requester, running_loop
from serve_bridge.adapters.bridge.asgi_scope import readable
from serve_bridge.adapters.bridge.forwarded_route import ForwardedRoute
from serve_bridge.adapters.bridge.outcome import Outcome, refused
from serve_bridge.adapters.bridge.patterns import Match

if TYPE_CHECKING:
    from serve_bridge.adapters.bridge.bridge import Bridge


async def forward_over_asgi(
    bridge: Bridge,
    route: ForwardedRoute,
    scope: Scope,
    path_params: Mapping[str, Any],
    receive: Receive,
    send: Send,
    *,
    handled: bool = True,
) -> None:
    """Forward an HTTP request and send its answer.

    Args:
        bridge: The bridge to the instance.
        route: The route of the request.
        scope: The scope of the request.
        path_params: The converted path parameters.
        receive: The `receive` of the request, not used yet.
        send: The `send` of the request.
        handled: Whether a failure may be raised. False for a middleware, which is outside of the error handlers.

    Raises:
        HTTPException: The request failed inside a Starlette application, whose handlers make the answer.
    """
    scope = readable(scope)
    requester = Requester(scope, receive)
    web_request = Request(scope, receive) if route.context is not None else None
    outcome = await ask(bridge, route, scope, path_params, requester, web_request, requester)
    if outcome.error is not None:
        await fail(outcome, scope, send, handled=handled)
    else:
        await send_answer(outcome.status, outcome.headers, outcome.body, scope, send, requester)


async def ask(
    bridge: Bridge,
    route: ForwardedRoute,
    scope: Scope,
    path_params: Mapping[str, Any],
    body: bytes | Receive,
    web_request: Any,
    requester: Requester,
) -> Outcome:
    """Return the outcome of `Bridge.ask_async`. If *requester* leaves, cancel the request."""
    try:
        with requester:
            channel = bridge.channel_at(requester.loop)
            return await bridge.ask_async(route, scope, path_params, body, web_request, channel)
    except ClientLeft as left:
        return refused(left)


class ForwardingApp:
    """An ASGI application of one forwarded route. Not a function: Starlette calls functions with a Request."""

    def __init__(self, bridge: Bridge, route: ForwardedRoute) -> None:
        self._bridge = bridge
        self._route = route
        # Starlette takes the name of the route from here; error trackers and tracers take the name of the request.
        self.__name__: str = f"serve_bridge_{route.endpoint}"
        self.__qualname__: str = self.__name__

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one request or WebSocket."""
        path_params = scope.get("path_params") or {}
        if scope["type"] == "http":
            await forward_over_asgi(self._bridge, self._route, scope, path_params, receive, send)
        else:
            await carry_websocket(self._bridge, self._route, scope, path_params, receive, send)


async def forward_match(
    bridge: Bridge, found: Match, scope: Scope, receive: Receive, send: Send, *, handled: bool = True
) -> None:
    """Forward one request or WebSocket to the route in *found*; see `forward_over_asgi` for *handled*."""
    # Changed in place, as Starlette's router does, so that outer middleware such as a tracer sees the route.
    scope["route"] = scope["endpoint"] = found.named
    outer = scope.get("path_params")
    path_params = {**outer, **found.path_params} if outer else found.path_params
    if scope["type"] == "http":
        await forward_over_asgi(bridge, found.route, scope, path_params, receive, send, handled=handled)
    else:
        await carry_websocket(bridge, found.route, scope, path_params, receive, send)


async def carry_websocket(
    bridge: Bridge, route: ForwardedRoute, scope: Scope, path_params: Mapping[str, Any], receive: Receive, send: Send
) -> None:
    """Forward a WebSocket until it closes."""
    check_kind(scope["type"])
    running_loop()
    scope = readable(scope)
    connection = HTTPConnection[Any](scope) if route.context is not None else None
    await bridge.websocket(route, scope, path_params, receive, send, connection)


def check_kind(kind: str) -> None:
    """Check that a scope of *kind* can be forwarded.

    Raises:
        ValueError: *kind* is neither "http" nor "websocket".
    """
    if kind not in ("http", "websocket"):
        raise ValueError(f"serve_bridge answers HTTP requests and WebSockets, not {kind!r}")
