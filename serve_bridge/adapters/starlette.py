"""Starlette and FastAPI: routes that are answered by endpoints, or a mount of all of an instance's routes.

    bridge = ServeBridge()
    app = Starlette(routes=[
        Route("/classify", bridge.forward("classify"), methods=["POST"]),
        Mount("/models", app=bridge),
    ])

Rule 1: plain ASGI; errors inside an application are Starlette's `HTTPException`, so its handlers run.
"""

from __future__ import annotations

from typing import Unpack

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_bridge.adapters.asgi import answer
from serve_bridge.adapters.bridge import ASYNC_TIMEOUT_S, Bridge
from serve_bridge.adapters.route import ForwardedRoute, RouteOptions
from serve_bridge.client import Client
from serve_bridge.errors import ServeBridgeError
from serve_bridge.handle import Handle
from serve_bridge.messages import RoutingTable
from serve_bridge.path_params import convert
from serve_bridge.proxy.app import routes_of
from serve_bridge.proxy.route_index import RouteIndex

__all__ = ["ServeBridge"]


class ServeBridge:
    """An app's bridge; as an ASGI application it answers, below its mount, every route of the instance.

    Args:
        address: What `serve_bridge.connect` takes; None: SERVE_BRIDGE_ADDRESS, else this user's instance.
        name: Which of this user's instances.
        timeout_s: Seconds a forwarded request may take, where a route says nothing else.
    """

    def __init__(
        self, address: str | None = None, *, name: str = "default", timeout_s: float = ASYNC_TIMEOUT_S
    ) -> None:
        self._bridge = Bridge(address, name=name, timeout_s=timeout_s)
        self._table: RoutingTable | None = None
        self._index = RouteIndex(())

    @property
    def client(self) -> Client:
        """The client.

        Raises:
            NotConnected: No instance is running where it was looked for.
        """
        return self._bridge.client()

    def get_handle(self, endpoint: str) -> Handle:
        """Return a handle for the app to call: `await handle.acall(...)`."""
        return self._bridge.get_handle(endpoint)

    def close(self) -> None:
        """Let go of the instance, at the end of a lifespan."""
        self._bridge.close()

    def forward(self, endpoint: str, **options: Unpack[RouteOptions]) -> ASGIApp:
        """Return what a `Route` takes as its endpoint; see `RouteOptions` for the options.

        Give the `Route` its methods: without any, it forwards all of them.

        Raises:
            TypeError, ConfigError: An option is unknown, or has a value that it cannot have.
        """
        return _ForwardingApp(self._bridge, ForwardedRoute(endpoint, options))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request by the instance's own routes."""
        if scope["type"] != "http":
            await _refuse(scope, receive, send)
            return
        try:
            lane = await (await self._bridge.aclient()).lane()
        except ServeBridgeError:
            await _answer_status(503, scope, receive, send)
            return
        table = lane.router.table
        if table is not None and table is not self._table:
            self._table, self._index = table, RouteIndex(routes_of(table))
        found = self._index.match(_sub_path(scope))
        if found is None:
            await _answer_status(404, scope, receive, send)
            return
        endpoint, params = found
        if scope["method"] not in endpoint.methods and not (scope["method"] == "HEAD" and "GET" in endpoint.methods):
            await _answer_status(405, scope, receive, send)
            return
        route = ForwardedRoute(endpoint.endpoint)
        await answer(self._bridge, route, convert(params), scope, receive, send, Request(scope))


class _ForwardingApp:
    """One forwarded route; an object and no function, which Starlette would call with a Request."""

    def __init__(self, bridge: Bridge, route: ForwardedRoute) -> None:
        self._bridge = bridge
        self._route = route
        self.__name__ = f"serve_bridge_{route.endpoint}"  # Starlette names the route after it

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _refuse(scope, receive, send)
            return
        path_params = scope.get("path_params", {})
        await answer(self._bridge, self._route, path_params, scope, receive, send, Request(scope))


def _sub_path(scope: Scope) -> str:
    """Return the path below the mount: `root_path` is where that is, and `path` holds all of it."""
    path: str = scope["path"]
    root_path = scope.get("root_path", "")
    below = path.removeprefix(root_path)
    return below if below.startswith("/") else path


async def _answer_status(status: int, scope: Scope, receive: Receive, send: Send) -> None:
    if "app" in scope:
        raise HTTPException(status)
    await PlainTextResponse("", status)(scope, receive, send)


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "websocket":
        raise ValueError(f"serve_bridge answers HTTP requests, not {scope['type']!r}")
    await receive()
    await send({"type": "websocket.close", "code": 1000})
