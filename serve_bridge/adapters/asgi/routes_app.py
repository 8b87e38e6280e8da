"""The ASGI application that answers forwarded routes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.types import Receive, Scope, Send

from serve_bridge.adapters.asgi.answers import fail
from serve_bridge.adapters.asgi.forwarding import check_kind, forward_match
from serve_bridge.adapters.asgi.requester import running_loop
from serve_bridge.adapters.bridge.app_routes import AppRoutes
from serve_bridge.adapters.bridge.asgi_scope import path_below
from serve_bridge.adapters.bridge.outcome import Outcome, refused
from serve_bridge.adapters.bridge.patterns import Match, Patterns
from serve_bridge.adapters.bridge.websocket_refusal import refuse_websocket
from serve_bridge.errors import ServeBridgeError

if TYPE_CHECKING:
    from serve_bridge.adapters.bridge.bridge import Bridge
    from serve_bridge.routing_table import RoutingTable


class RoutesApp:
    """An application that forwards its routes below its mount, and answers 404 or 405 to other requests.

    Args:
        bridge: The bridge to the instance.
        routes: The routes to forward; None: all routes of the instance.
        closes: Whether the end of a lifespan closes the bridge.
    """

    def __init__(self, bridge: Bridge, routes: Patterns | None, *, closes: bool = False) -> None:
        self._bridge = bridge
        self._routes = AppRoutes(routes)
        self._closes = closes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one scope."""
        kind = scope["type"]
        loop = running_loop()
        if kind == "lifespan":
            await self._live(receive, send)
            return
        check_kind(kind)
        found: Match | Outcome
        try:
            table = None if self._routes.own else await self._routing_table(loop)
            found = self._routes.find(path_below(scope), scope.get("method", "GET"), table)
        except ServeBridgeError as error:
            found = refused(error)
        if isinstance(found, Match):
            await forward_match(self._bridge, found, scope, receive, send)
        else:
            await _refuse(found, scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        if self._closes:
            await self._bridge.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _routing_table(self, loop: asyncio.AbstractEventLoop) -> RoutingTable | None:
        channel = self._bridge.channel_at(loop) or await (await self._bridge.alink()).channel()
        return channel.router.table


async def _refuse(outcome: Outcome, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await fail(outcome, scope, send)
    else:
        await refuse_websocket(outcome, scope, receive, send)
