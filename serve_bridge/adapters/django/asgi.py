"""An ASGI application that answers chosen routes ahead of Django: WebSockets, streams of events, and any others.

    application = ServeBridge(get_asgi_application(), routes={"/events/{topic}": "events", "/chat": "chat"})

Rule 1: its routes are answered without Django: no middleware, no session, no login, no CSRF. A route that needs them
        is a view. Paths are Starlette's, since they are matched before Django sees them.
Rule 2: whatever is not named is handed on untouched: it stands inside of Channels' `ProtocolTypeRouter` or around it.
Rule 3: it uses the project's bridge, and lets go of it when the server shuts down.
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
    """Forwards HTTP requests and WebSockets that match *routes*, and hands everything else to *application*.

    Args:
        application: What `get_asgi_application` returns, or what is around it.
        routes: Paths in Starlette's syntax, each with the name of an endpoint, or with a dict of "endpoint", "methods"
            and the options of `RouteOptions`, whose `context` begins at Starlette's request.

    Raises:
        TypeError, ConfigError, ValueError: A route is none; the message names it.
    """

    def __init__(self, application: ASGIApp, routes: Mapping[str, Any]) -> None:
        self._application = application
        self._patterns = Patterns(parse_routes(routes, "routes"))
        load_bridge()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on, one scope."""
        kind = scope["type"]
        if kind in ("http", "websocket"):
            found = self._patterns.match(path_below(scope))
            if found is not None and found.takes(scope.get("method", "GET")):
                await forward_match(bridge(), found, scope, receive, send)
                return
            if kind == "websocket" and isinstance(self._application, ASGIHandler):
                await _deny(receive, send)  # Django would raise, and the server log that, for any client that tries
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
    """The server's life, around an application that may know nothing of it, as Django."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._is_known = False

    async def run(self, application: ASGIApp, scope: Scope) -> None:
        """Let *application* live; if it has no life of its own, answer in its place."""
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
