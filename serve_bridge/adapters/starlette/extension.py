"""Starlette and FastAPI: forwarded routes, a mount, a middleware, and handles for views.

    bridge = ServeBridge()
    app = Starlette(
        routes=[
            Route("/classify", bridge.forward("classify"), methods=["POST"]),
            WebSocketRoute("/chat", bridge.forward("chat")),
            Mount("/models", app=bridge),
        ],
        lifespan=bridge.lifespan,
    )

Rule 1: an error inside an application is Starlette's `HTTPException`, so the handlers of the application run.
Rule 2: FastAPI needs only signatures with types, so this module imports nothing of FastAPI.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal, Unpack

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Scope

from serve_bridge.adapters.asgi import application as asgi
from serve_bridge.adapters.asgi.application import ServeBridgeMiddleware
from serve_bridge.adapters.asgi.forwarding import ForwardingApp
from serve_bridge.adapters.asgi.requester import running_loop
from serve_bridge.adapters.asgi.unavailable import unavailable_in_app
from serve_bridge.adapters.bridge.app_bridge import bridge_of
from serve_bridge.adapters.bridge.asgi_scope import REQUEST_ID, request_id_of
from serve_bridge.adapters.bridge.forwarded_route import ForwardedRoute, RouteOptions
from serve_bridge.adapters.bridge.route_spec import RouteSpec
from serve_bridge.adapters.starlette.fastapi_endpoint import Operation, operation_of
from serve_bridge.context import new_request_id, running_request, valid_request_id
from serve_bridge.printable import shown

if TYPE_CHECKING:
    from serve_bridge.adapters.bridge.bridge import Bridge
    from serve_bridge.client.handle import Handle

__all__ = ["ADAPTER", "ServeBridge", "ServeBridgeMiddleware", "get_handle"]

STATE: Final = "serve_bridge"
"""Name of the bridge in the state of a lifespan and of an application."""

Lifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]


class ServeBridge(asgi.ServeBridge):
    """An app's bridge to an instance. As a mount it answers forwarded routes below its prefix.

    The arguments are those of `serve_bridge.adapters.asgi.ServeBridge`.
    """

    def endpoint(self, endpoint: str, **options: Unpack[RouteOptions]) -> Callable[[Callable[..., Any]], Operation]:
        """Return a decorator that turns a typed stub into a FastAPI path operation, which *endpoint* answers.

        FastAPI validates path, query, headers and body, runs dependencies and background tasks, and documents the
        operation. Then the bridge forwards the original request, with path parameters of the stub's types.

        The body of the stub is a docstring, `...`, `pass` or `raise NotImplementedError`. The last one satisfies type
        checkers if the stub has a return type. In `context`, a path may begin with `arguments`, the arguments of the
        stub: `context={"user_id": "arguments.user.id"}`.

        Args:
            endpoint: Name of the endpoint.
            options: See `RouteOptions`.

        Raises:
            TypeError, ConfigError: An option is unknown or has a wrong value.

        Example:
            ```
            @app.post("/predict/{item_id}")
            @bridge.endpoint("predict")
            async def predict(item_id: int, features: Features) -> Prediction:
                raise NotImplementedError
            ```
        """
        route = ForwardedRoute(endpoint, options)
        return lambda stub: operation_of(stub, self._bridge, route)

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[Mapping[str, Any]]:
        """The lifespan of an application: `request.state.serve_bridge` is this bridge, and the end closes it.

        The bridge connects with the first request, not here.
        """
        running_loop()
        try:
            yield {STATE: self}
        finally:
            await self.aclose()

    def lifespan_with(self, other: Lifespan) -> Lifespan:
        """Return a lifespan of this bridge with *other* inside. The state of both is merged."""

        @asynccontextmanager
        async def both(app: Any) -> AsyncIterator[Mapping[str, Any]]:
            async with self.lifespan(app) as own, other(app) as others:
                yield {**own, **(others or {})}

        return both


def get_handle(
    endpoint: str,
    *,
    method_name: str | None = None,
    shard_key: str | None = None,
    http_method: str | None = None,
    http_headers: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> Callable[[HTTPConnection], Awaitable[Handle]]:
    """Return a FastAPI dependency: a handle for *endpoint*. The options are those of `Handle.options`.

    Without *timeout_s* a call has the timeout of the bridge's forwarded requests.

    The bridge is the one of the application's lifespan, otherwise `app.state.serve_bridge`. If neither exists, the
    dependency makes a bridge and stores it there.

    Raises:
        TypeError, ConfigError: An option has a wrong type or value.

    Example:
        ```
        Digits = Annotated[Handle, Depends(get_handle("digits"))]

        @app.post("/read")
        async def read(pixels: list[float], digits: Digits) -> int:
            return await digits.acall(pixels)
        ```
    """
    if not isinstance(endpoint, str):
        raise TypeError(f"get_handle needs the name of an endpoint, got {shown(endpoint)}")
    from serve_bridge.client.call_options import CallOptions  # late: importing the adapter must not load the client

    given = {"method_name": method_name, "shard_key": shard_key, "http_method": http_method, "timeout_s": timeout_s}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    # Made here, so that a wrong option is an error of this call, and not of each request.
    options = CallOptions(**chosen, http_headers=http_headers)

    async def handle(connection: HTTPConnection) -> Handle:
        # The id stays set for the view, which runs in the same task, or in a thread with a copy of its context.
        running_request.set(_request_id_of(connection.scope))
        bridge = bridge_of(_bridge_of(connection))
        with unavailable_in_app():
            link = await bridge.alink()
        from serve_bridge.adapters.asgi.view_handle import view_handle  # late: the bridge loads it

        own = options if timeout_s is not None else replace(options, timeout_s=bridge.timeout_s)
        return view_handle(link, endpoint, own)

    return handle


def _request_id_of(scope: Scope) -> str:
    found: str | None = scope.get(REQUEST_ID)
    if found is None:
        given = request_id_of(scope)
        found = scope[REQUEST_ID] = valid_request_id(given) or new_request_id()
    return found


def _bridge_of(connection: HTTPConnection) -> asgi.ServeBridge:
    state = connection.scope.get("state") or {}
    found = state.get(STATE)
    if found is None:
        application = connection.app.state
        found = getattr(application, STATE, None)
        if found is None:
            found = ServeBridge()
            setattr(application, STATE, found)
    if not isinstance(found, asgi.ServeBridge):
        raise TypeError(f"the application's state has {STATE!r}, which must be a ServeBridge, got {shown(found)}")
    return found


class _Adapter:
    """The adapter, for its entry point; see `serve_bridge.adapters.Adapter`."""

    name = "starlette"
    interface: Literal["asgi"] = "asgi"

    def application(self, bridge: Bridge, routes: Sequence[RouteSpec]) -> ASGIApp:
        """Return a Starlette application that forwards *routes*, WebSockets too."""
        from starlette.applications import Starlette  # late: an app that uses routes of its own has loaded it
        from starlette.routing import BaseRoute, Route, WebSocketRoute

        served: list[BaseRoute] = []
        for route in routes:
            app = ForwardingApp(bridge, ForwardedRoute(route.endpoint, route.options))
            served.append(Route(route.pattern, app, methods=route.methods))
            served.append(WebSocketRoute(route.pattern, app))
        return Starlette(routes=served)


ADAPTER: Final = _Adapter()
