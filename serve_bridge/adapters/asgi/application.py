"""Any ASGI framework: an application that answers forwarded routes, and a middleware that does so ahead of another.

    app = ServeBridge(routes={"/classify": {"endpoint": "classify", "methods": ["POST"]}})
    app = ServeBridgeMiddleware(app, routes={"/models/{name}": "model", "/chat": "chat"})

Rule 1: what nobody has named passes a middleware untouched: other routes, other methods, unknown scope types.
Rule 2: an application answers by itself what is not its own: 404, 405, each as a problem (RFC 9457).
Rule 3: nothing connects before the first request; the end of a lifespan lets go of the instance.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal, Unpack

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_bridge.adapters.asgi.forwarding import ForwardingApp, forward_match
from serve_bridge.adapters.asgi.routes_app import RoutesApp
from serve_bridge.adapters.asgi.unavailable import answer_unavailable, unavailable_in_app
from serve_bridge.adapters.bridge.app_bridge import AppBridge
from serve_bridge.adapters.bridge.app_middleware import AppMiddleware
from serve_bridge.adapters.bridge.asgi_scope import REQUEST_ID, path_below, request_id_of
from serve_bridge.adapters.bridge.forwarded_route import ASYNC_TIMEOUT_S, ForwardedRoute, RouteOptions
from serve_bridge.adapters.bridge.patterns import Patterns
from serve_bridge.adapters.bridge.route_spec import RouteSpec
from serve_bridge.context import in_request

if TYPE_CHECKING:
    from serve_bridge.adapters.bridge.bridge import Bridge
    from serve_bridge.client.client import Client
    from serve_bridge.client.handle import Handle

__all__ = ["ADAPTER", "ServeBridge", "ServeBridgeMiddleware"]


class ServeBridge(AppBridge):
    """An app's bridge to an instance, and an ASGI application that answers forwarded routes below its mount.

    Its arguments are those of `AppBridge`.
    """

    timeout_s = ASYNC_TIMEOUT_S

    @cached_property
    def _application(self) -> RoutesApp:
        return RoutesApp(self._bridge, self._routes, closes=True)

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


class ServeBridgeMiddleware(AppMiddleware[ASGIApp]):
    """ASGI middleware: forwards the requests and WebSockets that match *routes*, and hands on everything else.

    Errors are answered here, with a problem: the application's own handlers are behind it. So is what a view of the
    application does not catch of `errors.UNAVAILABLE`, unless its framework has answered already.

    Its arguments and attributes are those of `AppMiddleware`.
    """

    bridge_class = ServeBridge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward, or hand on, one scope."""
        kind = scope["type"]
        if kind in ("http", "websocket"):
            found = self._match(path_below(scope), scope.get("method", "GET"))
            if found is not None:
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


class _Adapter:
    """What the entry point names; see `serve_bridge.adapters.Adapter`."""

    name = "asgi"
    interface: Literal["asgi"] = "asgi"

    def application(self, bridge: Bridge, routes: Sequence[RouteSpec]) -> ASGIApp:
        """Return an application that answers *routes*."""
        return RoutesApp(bridge, Patterns(routes))


ADAPTER: Final = _Adapter()
