"""Any ASGI framework: an application that answers forwarded routes, and a middleware for your own application.

    app = ServeBridge(routes={"/classify": {"endpoint": "classify", "methods": ["POST"]}})
    app = ServeBridgeMiddleware(app, routes={"/models/{name}": "model", "/chat": "chat"})

Rule 1: the middleware passes all other requests on unchanged: other paths, other methods, unknown scope types.
Rule 2: the application answers all other requests itself, with 404 or 405 and a problem document (RFC 9457).
Rule 3: nothing connects before the first request. The end of a lifespan disconnects from the instance.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Final, Literal, Unpack

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

    The arguments are those of `AppBridge`.
    """

    timeout_s = ASYNC_TIMEOUT_S

    @cached_property
    def _application(self) -> RoutesApp:
        return RoutesApp(self._bridge, self._routes, closes=True)

    def get_handle(self, endpoint: str) -> Handle:
        """Return a handle for a view, with `await handle.acall(...)`, or `handle.call(...)` in a thread.

        A view need not catch the error of a missing endpoint or instance, or of a full queue. The error is also
        Starlette's `HTTPException`, with status 503 and the header `Retry-After`.

        Raises:
            NotConnected: No instance is running at the address.
        """
        # Late: the bridge loads them; importing the adapter must not load the client.
        from serve_bridge.adapters.asgi.view_handle import view_handle
        from serve_bridge.client.call_options import CallOptions

        with unavailable_in_app():
            link = self._bridge.link()
        return view_handle(link, endpoint, CallOptions(timeout_s=self._bridge.timeout_s))

    async def aclient(self) -> Client:
        """Return the client of the instance, as `client` does, without blocking the running loop."""
        return await self._bridge.aclient()

    async def aclose(self) -> None:
        """Do the same as `close`, without blocking the running loop."""
        await self._bridge.aclose()

    def forward(self, endpoint: str, **options: Unpack[RouteOptions]) -> ASGIApp:
        """Return an ASGI application that forwards its HTTP requests and WebSockets to *endpoint*.

        Pass it to a `Route`, a `WebSocketRoute` or a mount. The route limits the methods. See `RouteOptions` for the
        options.

        Raises:
            TypeError, ConfigError: An option is unknown or has a wrong value.
        """
        return ForwardingApp(self._bridge, ForwardedRoute(endpoint, options))

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Return *app* behind a middleware that forwards the routes of this bridge.

        Raises:
            ConfigError: The bridge has no routes.
        """
        return ServeBridgeMiddleware(app, bridge=self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one scope; the end of a lifespan closes the bridge."""
        await self._application(scope, receive, send)


class ServeBridgeMiddleware(AppMiddleware[ASGIApp]):
    """ASGI middleware: forwards requests and WebSockets that match *routes*, and passes all others to *app*.

    If a forwarded request fails, the middleware answers with a problem document, because the error handlers of *app*
    are behind it. If a view of *app* does not catch an error of `errors.UNAVAILABLE`, the middleware answers with a 503
    problem, unless the framework has begun to answer.

    The arguments and attributes are those of `AppMiddleware`.
    """

    bridge_class: ClassVar[type[AppBridge]] = ServeBridge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one scope, or pass it on."""
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
    """The adapter, for its entry point; see `serve_bridge.adapters.Adapter`."""

    name = "asgi"
    interface: Literal["asgi"] = "asgi"

    def application(self, bridge: Bridge, routes: Sequence[RouteSpec]) -> ASGIApp:
        """Return an application that answers *routes*."""
        return RoutesApp(bridge, Patterns(routes))


ADAPTER: Final = _Adapter()
