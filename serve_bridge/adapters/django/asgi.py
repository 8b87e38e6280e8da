"""An ASGI application around Django that forwards some routes itself, such as WebSockets and streams of events.

    application = ServeBridge(get_asgi_application(), routes={"/events/{topic}": "events", "/chat": "chat"})

Rule 1: these routes bypass Django: its middleware, sessions, login and CSRF protection. A route that needs them must be
        a view. Paths have Starlette's syntax, because they are matched before Django sees the request.
Rule 2: all other scopes pass unchanged, so it may stand inside or around the `ProtocolTypeRouter` of Channels.
Rule 3: it uses the bridge of the project, and closes the bridge when the server shuts down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from django.core.handlers.asgi import ASGIHandler
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_bridge.adapters.asgi.forwarding import forward_match
from serve_bridge.adapters.asgi.unavailable import answer_unavailable
from serve_bridge.adapters.bridge.asgi_scope import path_below, request_id_of
from serve_bridge.adapters.bridge.patterns import Patterns
from serve_bridge.adapters.bridge.route_spec import parse_routes
from serve_bridge.adapters.django.current_bridge import bridge, close, load_bridge
from serve_bridge.context import in_request


class ServeBridge:
    """Forwards HTTP requests and WebSockets that match *routes*, and passes all others to *application*.

    Args:
        application: The result of `get_asgi_application`, or an application around it.
        routes: Paths in Starlette's syntax, each with the name of an endpoint, or with a dict of "endpoint", "methods"
            and the options of `RouteOptions`. Paths in `context` begin with an attribute of Starlette's request.

    Raises:
        TypeError, ConfigError, ValueError: A route is wrong; the message names it.
    """

    def __init__(self, application: ASGIApp, routes: Mapping[str, Any]) -> None:
        self._application = application
        self._patterns = Patterns(parse_routes(routes, "routes"))
        load_bridge()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one scope, or pass it on."""
        kind = scope["type"]
        if kind in ("http", "websocket"):
            found = self._patterns.match(path_below(scope))
            if found is not None and found.takes(scope.get("method", "GET")):
                await forward_match(bridge(), found, scope, receive, send)
                return
            if kind == "websocket" and isinstance(self._application, ASGIHandler):
                # Django would raise, so every such client would cause a traceback in the server's log.
                await _deny(receive, send)
                return
        elif kind == "lifespan":
            await _Lifespan(receive, send).run(self._application, scope)
            return
        if kind in ("http", "websocket"):
            with in_request(request_id_of(scope)):
                await answer_unavailable(self._application, scope, receive, send)
            return
        await self._application(scope, receive, send)


async def _deny(receive: Receive, send: Send) -> None:
    if (await receive())["type"] == "websocket.connect":
        await send({"type": "websocket.close", "code": 1000})


class _Lifespan:
    """The lifespan of the server, also for an application without support for it, such as Django."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._is_known = False

    async def run(self, application: ASGIApp, scope: Scope) -> None:
        """Run the lifespan of *application*. If it does not support lifespans, answer in its place."""
        try:
            await application(scope, self._received, self._told)
        except Exception:
            if self._is_known:
                raise
        if not self._is_known:
            await self._receive()
            await self._send({"type": "lifespan.startup.complete"})
            await self._receive()
            await self._told({"type": "lifespan.shutdown.complete"})

    async def _received(self) -> Message:
        self._is_known = True
        return await self._receive()

    async def _told(self, message: Message) -> None:
        if message["type"].startswith("lifespan.shutdown."):
            await asyncio.to_thread(close)
        await self._send(message)
