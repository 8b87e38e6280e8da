"""Any ASGI framework: an application that answers forwarded routes, and a middleware that does so ahead of another.

    app = ServeBridge(routes={"/classify": {"endpoint": "classify", "methods": ["POST"]}})
    app = ServeBridgeMiddleware(app, routes={"/models/{name}": "model", "/chat": "chat"})

Rule 1: what nobody has named passes a middleware untouched: other routes, other methods, unknown scope types.
Rule 2: an application answers by itself what is not its own: 404, 405, each as a problem (RFC 9457).
Rule 3: nothing connects before the first request; the end of a lifespan lets go of the instance.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, Unpack

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_bridge import checks
from serve_bridge.adapters.bridge import ASYNC_TIMEOUT_S, Bridge, Outcome, refused
from serve_bridge.adapters.exchange import exchange, fail, running_loop
from serve_bridge.adapters.instance_routes import InstanceRoutes
from serve_bridge.adapters.patterns import Match, Patterns
from serve_bridge.adapters.route import ForwardedRoute, RouteOptions, RouteSpec, parse_routes
from serve_bridge.client import Client
from serve_bridge.errors import ConfigError, ServeBridgeError, shown
from serve_bridge.forwarded_websocket import deny
from serve_bridge.handle import Handle
from serve_bridge.results import Answer, problem

__all__ = ["ADAPTER", "ServeBridge", "ServeBridgeMiddleware"]


class ServeBridge:
    """An app's bridge to an instance, and an ASGI application that answers forwarded routes below its mount.

    Args:
        address: What `serve_bridge.connect` takes; None: SERVE_BRIDGE_ADDRESS, else this user's instance.
        routes: What it answers: a dict of paths in Starlette's syntax, each with the name of an endpoint, or with a
            dict of "endpoint", "methods" (default: every one) and the options of `RouteOptions`. None: every route
            of the instance, as the routing table has them at that moment.
        name: Which of this user's instances.
        timeout_s: Seconds a forwarded request may take, where a route says nothing else.
        runtime: "local" starts an instance inside this process on first use, for development and tests.
        backends: What is deployed to an instance that is started here: what `serve_bridge.deploy` takes, which brings
            any other instance to the same by `deploy(*bridge.backends, client=bridge.client)`.

    Raises:
        TypeError, ConfigError: An argument is none that it can be; the message names it.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        routes: Mapping[str, Any] | None = None,
        name: str = "default",
        timeout_s: float = ASYNC_TIMEOUT_S,
        runtime: str | None = None,
        backends: Iterable[Any] = (),
    ) -> None:
        if address is not None and not isinstance(address, str):
            raise TypeError(f"address must be a str, got {shown(address)}; routes go to routes={{...}}")
        self.backends = checks.listed("backends", backends)
        self._bridge = Bridge(
            address,
            name=name,
            runtime=runtime,
            timeout_s=checks.seconds()("timeout_s", timeout_s),
            declared=lambda: self.backends,
        )
        self._routes = None if routes is None else Patterns(parse_routes(routes, "routes"))
        self._application = Application(self._bridge, self._routes, closes=True)

    @property
    def client(self) -> Client:
        """The client.

        Raises:
            NotConnected: No instance is running where it was looked for.
        """
        return self._bridge.client()

    async def aclient(self) -> Client:
        """Same as `client`, without holding the running loop up."""
        return await self._bridge.aclient()

    def get_handle(self, endpoint: str) -> Handle:
        """Return a handle for the app to call: `await handle.acall(...)`."""
        return self._bridge.get_handle(endpoint)

    def close(self) -> None:
        """Let go of the instance, and end it if it was started here; the next use connects again."""
        self._bridge.close()

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

    Errors are answered here, with a problem: the application's own handlers are behind it.

    Args:
        app: What is behind it.
        routes: What is forwarded; as for `ServeBridge`. None: the routes of *bridge*.
        bridge: Leads to the instance; None: one is made of the other arguments, which are those of `ServeBridge`.
        address: See `ServeBridge`.
        name: See `ServeBridge`.
        timeout_s: See `ServeBridge`.
        runtime: See `ServeBridge`.
        backends: See `ServeBridge`.

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
        name: str = "default",
        timeout_s: float = ASYNC_TIMEOUT_S,
        runtime: str | None = None,
        backends: Iterable[Any] = (),
    ) -> None:
        self._app = app
        owner = bridge or ServeBridge(
            address, routes=routes, name=name, timeout_s=timeout_s, runtime=runtime, backends=backends
        )
        self._bridge = owner._bridge
        patterns = owner._routes if routes is None else Patterns(parse_routes(routes, "routes"))
        if patterns is None:
            raise ConfigError("a middleware forwards what it is told to: give it routes={'/path': 'endpoint'}")
        self._patterns = patterns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward, or hand on, one scope."""
        kind = scope["type"]
        if kind in ("http", "websocket"):
            found = self._patterns.match(path_below(scope))
            if found is not None and found.takes(scope.get("method", "GET")):
                await _forward(self._bridge, found, scope, receive, send, handled=False)
                return
        elif kind == "lifespan":
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
        try:
            found = (self._routes or await self._routes_of_instance(loop)).match(path_below(scope))
        except ServeBridgeError as error:
            await _refuse(refused(error), scope, receive, send)
            return
        if found is None:
            detail = f"no route matches {scope['path'][:200]!r}"
            await _refuse(_outcome(problem(404, "Not Found", detail)), scope, receive, send)
        elif not found.takes(scope.get("method", "GET")):
            await _refuse(_not_allowed(found.methods or ()), scope, receive, send)
        else:
            await _forward(self._bridge, found, scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        if self._closes:
            await self._bridge.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _routes_of_instance(self, loop: asyncio.AbstractEventLoop) -> Patterns:
        lane = self._bridge.lane_at(loop) or await (await self._bridge.aclient()).lane()
        return self._instance_routes.of(lane.router.table)


class ForwardingApp:
    """One forwarded route; an object and no function, which Starlette would call with a Request."""

    def __init__(self, bridge: Bridge, route: ForwardedRoute) -> None:
        self._bridge = bridge
        self._route = route
        self.__name__ = f"serve_bridge_{route.endpoint}"  # Starlette names the route after it

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one request or WebSocket."""
        path_params = scope.get("path_params") or {}
        if scope["type"] == "http":
            await exchange(self._bridge, self._route, scope, path_params, receive, send)
        else:
            await _converse(self._bridge, self._route, scope, path_params, receive, send)


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


async def _forward(
    bridge: Bridge, found: Match, scope: Scope, receive: Receive, send: Send, *, handled: bool = True
) -> None:
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
    await bridge.websocket(route, scope, path_params, receive, send, connection)


async def _refuse(outcome: Outcome, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await fail(outcome, scope, send)
    elif (await receive())["type"] == "websocket.connect":
        await deny(scope, send, Answer(outcome.status, outcome.headers, outcome.body))


def _not_allowed(methods: Iterable[str]) -> Outcome:
    allowed = ", ".join(sorted(methods))
    answer = problem(405, "Method Not Allowed", f"allowed: {allowed}")
    answer.headers.append((b"allow", allowed.encode()))
    return _outcome(answer)


def _outcome(answer: Answer) -> Outcome:
    return Outcome(answer.status, answer.headers, answer.body)


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
