"""Any ASGI framework: an application that answers forwarded routes, and a middleware that does so ahead of another.

    app = ServeBridge(routes={"/classify": {"endpoint": "classify", "methods": ["POST"]}})
    app = ServeBridgeMiddleware(app, routes={"/models/{name}": "model", "/chat": "chat"})

Rule 1: what nobody has named passes a middleware untouched: other routes, other methods, unknown scope types.
Rule 2: an application answers by itself what is not its own: 404, 405, each as a problem (RFC 9457).
Rule 3: nothing connects before the first request; the end of a lifespan lets go of the instance.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, Unpack

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_bridge.adapters.asgi.exchange import exchange, fail, running_loop
from serve_bridge.adapters.asgi.unavailable import unavailable_in_app
from serve_bridge.adapters.bridge.app_bridge import AppBridge, BridgeOptions, route_of
from serve_bridge.adapters.bridge.asgi_scope import readable
from serve_bridge.adapters.bridge.forwarded_route import ASYNC_TIMEOUT_S, ForwardedRoute, RouteOptions, RouteSpec
from serve_bridge.adapters.bridge.instance_routes import InstanceRoutes
from serve_bridge.adapters.bridge.outcome import Outcome, refused
from serve_bridge.adapters.bridge.patterns import Match, Patterns
from serve_bridge.adapters.bridge.websocket_refusal import deny_websocket, refuse_websocket
from serve_bridge.context import in_request
from serve_bridge.errors import UNAVAILABLE, ServeBridgeError

if TYPE_CHECKING:
    from serve_bridge.adapters.bridge.bridge import Bridge
    from serve_bridge.client.client import Client
    from serve_bridge.client.handle import Handle

__all__ = ["ADAPTER", "ServeBridge", "ServeBridgeMiddleware"]


REQUEST_ID: Final = "serve_bridge.request_id"
"""Key in a scope of the id of its request, once something has asked for it."""


class ServeBridge(AppBridge):
    """An app's bridge to an instance, and an ASGI application that answers forwarded routes below its mount.

    Its arguments are those of `AppBridge`.
    """

    timeout_s = ASYNC_TIMEOUT_S

    @cached_property
    def _application(self) -> Application:
        return Application(self._bridge, self._routes, closes=True)

    def get_handle(self, endpoint: str) -> Handle:
        """Return a handle for a view to call: `await handle.acall(...)`, in a thread `handle.call(...)`.

        A view need not catch what cannot be reached now: a missing endpoint or instance, a full queue. It is
        Starlette's `HTTPException` with status 503 and `Retry-After`.

        Raises:
            NotConnected: No instance is running where it was looked for.
        """
        # Late: they are loaded with the bridge, and importing an adapter loads no client.
        from serve_bridge.adapters.asgi.view_handle import view_handle
        from serve_bridge.client.call_options import CallOptions

        with unavailable_in_app():
            client = self._bridge.client()
        return view_handle(client, endpoint, CallOptions(timeout_s=self._bridge.timeout_s))

    async def aclient(self) -> Client:
        """Same as `client`, without holding the running loop up."""
        return await self._bridge.aclient()

    async def aclose(self) -> None:
        """Same as `close`, for a running loop."""
        await self._bridge.aclose()

    def forward(self, endpoint: str, **options: Unpack[RouteOptions]) -> ASGIApp:
        """Return an ASGI application that forwards its HTTP requests and WebSockets to *endpoint*.

        It is what a `Route`, a `WebSocketRoute` or a mount takes; see `RouteOptions` for the options. Which methods
        there are is the route's to say.

        Raises:
            TypeError, ConfigError: An option is unknown, or has a value that it cannot have.
        """
        return ForwardingApp(self._bridge, ForwardedRoute(endpoint, options))

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Return *app* behind a middleware that answers this bridge's routes.

        Raises:
            ConfigError: It was given none.
        """
        return ServeBridgeMiddleware(app, bridge=self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one scope; the end of a lifespan closes the bridge."""
        await self._application(scope, receive, send)


class ServeBridgeMiddleware:
    """ASGI middleware: forwards the requests and WebSockets that match *routes*, and hands on everything else.

    Errors are answered here, with a problem: the application's own handlers are behind it. So is what a view of the
    application does not catch of `errors.UNAVAILABLE`, unless its framework has answered already.

    Args:
        app: What is behind it.
        routes: What is forwarded; as for `ServeBridge`. None: the routes of *bridge*.
        bridge: Leads to the instance; None: one is made of *address* and the options, which are those of `ServeBridge`.
        address: See `ServeBridge`.
        options: See `BridgeOptions`.

    Raises:
        TypeError, ConfigError: An argument is none that it can be; or nothing says what is forwarded.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        routes: Mapping[str, Any] | None = None,
        bridge: ServeBridge | None = None,
        address: str | None = None,
        **options: Unpack[BridgeOptions],
    ) -> None:
        self._app = app
        owner = bridge or ServeBridge(address, routes=routes, **options)
        self._bridge = owner._bridge
        self._patterns = owner.patterns(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward, or hand on, one scope."""
        kind = scope["type"]
        if kind in ("http", "websocket"):
            found = self._patterns.match(path_below(scope))
            if found is not None and found.takes(scope.get("method", "GET")):
                await forward_match(self._bridge, found, scope, receive, send, handled=False)
                return
            with in_request(request_id_of(scope)) as scope[REQUEST_ID]:
                await answer_unavailable(self._app, scope, receive, send)
            return
        if kind == "lifespan":
            send = self._closing(send)
        await self._app(scope, receive, send)

    def _closing(self, send: Send) -> Send:
        async def closing(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await self._bridge.aclose()
            await send(message)

        return closing


class Application:
    """Answers forwarded routes below its mount, and 404 or 405 where it has none.

    Args:
        bridge: Leads to the instance.
        routes: What is answered; None: the instance's own routes.
        closes: Whether the end of a lifespan closes the bridge.
    """

    def __init__(self, bridge: Bridge, routes: Patterns | None, *, closes: bool = False) -> None:
        self._bridge = bridge
        self._routes = routes
        self._closes = closes
        self._instance_routes = InstanceRoutes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one scope."""
        kind = scope["type"]
        loop = running_loop()
        if kind == "lifespan":
            await self._live(receive, send)
            return
        _check_kind(kind)
        found: Match | Outcome
        try:
            patterns = self._routes or await self._routes_of_instance(loop)
            found = route_of(patterns, path_below(scope), scope.get("method", "GET"))
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

    async def _routes_of_instance(self, loop: asyncio.AbstractEventLoop) -> Patterns:
        channel = self._bridge.channel_at(loop) or await (await self._bridge.alink()).channel()
        return self._instance_routes.of(channel.router.table)


class ForwardingApp:
    """One forwarded route; an object and no function, which Starlette would call with a Request."""

    def __init__(self, bridge: Bridge, route: ForwardedRoute) -> None:
        self._bridge = bridge
        self._route = route
        # Starlette names the route after it, and error trackers and tracers the request.
        self.__name__ = self.__qualname__ = f"serve_bridge_{route.endpoint}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one request or WebSocket."""
        path_params = scope.get("path_params") or {}
        if scope["type"] == "http":
            await exchange(self._bridge, self._route, scope, path_params, receive, send)
        else:
            await _converse(self._bridge, self._route, scope, path_params, receive, send)


async def answer_unavailable(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run *app*; if it raises one of `errors.UNAVAILABLE` before it has answered, answer with 503."""
    answered = False

    async def sending(message: Message) -> None:
        nonlocal answered
        answered = True
        await send(message)

    try:
        await app(scope, receive, sending)
    except UNAVAILABLE as error:
        if answered:
            raise
        outcome = refused(error)
        if scope["type"] == "http":
            await fail(outcome, scope, send, handled=False)
        else:
            await deny_websocket(outcome, scope, send)


def request_id_of(scope: Scope) -> str | None:
    """Return the header X-Request-Id of *scope*; None if there is none."""
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), None)


def path_below(scope: Scope) -> str:
    """Return the path below the mount: `root_path` is where that is, and `path` holds all of it."""
    path: str = scope["path"]
    root_path: str = scope.get("root_path") or ""
    if root_path and path.startswith(root_path):
        below = path[len(root_path) :]
        path = below if below.startswith("/") else path if below else "/"
    return path[:-1] if path[-1:] == "/" and len(path) > 1 and _is_added_slash(scope) else path


def _is_added_slash(scope: Scope) -> bool:
    """Return whether the client did not send the slash that the path ends with: Litestar adds one below its mounts."""
    sent: bytes = scope.get("raw_path") or b"/"
    return not sent.endswith(b"/") and not sent.upper().endswith(b"%2F")


async def forward_match(
    bridge: Bridge, found: Match, scope: Scope, receive: Receive, send: Send, *, handled: bool = True
) -> None:
    """Forward one request or WebSocket to what its path led to; see `exchange.exchange` for *handled*."""
    # In place, as Starlette's router does: an outer middleware names the request after them.
    scope["route"] = scope["endpoint"] = found.named
    outer = scope.get("path_params")
    path_params = {**outer, **found.path_params} if outer else found.path_params
    if scope["type"] == "http":
        await exchange(bridge, found.route, scope, path_params, receive, send, handled=handled)
    else:
        await _converse(bridge, found.route, scope, path_params, receive, send)


async def _converse(
    bridge: Bridge, route: ForwardedRoute, scope: Scope, path_params: Mapping[str, Any], receive: Receive, send: Send
) -> None:
    """Carry a WebSocket."""
    _check_kind(scope["type"])
    running_loop()
    connection = HTTPConnection[Any](scope) if route.context is not None else None
    await bridge.websocket(route, readable(scope), path_params, receive, send, connection)


async def _refuse(outcome: Outcome, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await fail(outcome, scope, send)
    else:
        await refuse_websocket(outcome, scope, receive, send)


def _check_kind(kind: str) -> None:
    if kind not in ("http", "websocket"):
        raise ValueError(f"serve_bridge answers HTTP requests and WebSockets, not {kind!r}")


class _Adapter:
    """What the entry point names; see `serve_bridge.adapters.Adapter`."""

    name = "asgi"
    interface: Literal["asgi"] = "asgi"

    def application(self, bridge: Bridge, routes: Sequence[RouteSpec]) -> ASGIApp:
        """Return an application that answers *routes*."""
        return Application(bridge, Patterns(routes))


ADAPTER: Final = _Adapter()
