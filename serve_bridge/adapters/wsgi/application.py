"""Any WSGI framework: an application that answers forwarded routes, and a middleware that does so ahead of another.

    app = ServeBridge(routes={"/classify": {"endpoint": "classify", "methods": ["POST"]}})
    app = ServeBridgeMiddleware(app, routes={"/models/{name}": "model"})

Rule 1: what nobody has named passes a middleware untouched: other routes, other methods.
Rule 2: an application answers by itself what is not its own: 404, 405, each as a problem (RFC 9457).
Rule 3: nothing connects before the first request, so that a server may fork as it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Literal, Unpack

from serve_bridge.adapters.bridge.app_bridge import AppBridge, BridgeOptions, route_of
from serve_bridge.adapters.bridge.forwarded_route import SYNC_TIMEOUT_S, RouteSpec
from serve_bridge.adapters.bridge.instance_routes import InstanceRoutes
from serve_bridge.adapters.bridge.outcome import Outcome, refused, report
from serve_bridge.adapters.bridge.patterns import Match, Patterns
from serve_bridge.adapters.environ import body_of, headers_of, path_below, peer_of, scope_of, server_of
from serve_bridge.context import in_request
from serve_bridge.errors import UNAVAILABLE, ServeBridgeError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from serve_bridge.adapters.bridge.bridge import Bridge

__all__ = ["ServeBridge", "ServeBridgeMiddleware", "WebRequest", "headers_of", "peer_of", "scope_of", "server_of"]


@dataclass(frozen=True, slots=True)
class WebRequest:
    """What the `context` of a route is given.

    Attributes:
        environ: The request's WSGI environment; `{"user": "environ.REMOTE_USER"}` names a key of it.
    """

    environ: Mapping[str, Any]


class ServeBridge(AppBridge):
    """An app's bridge to an instance, and a WSGI application that answers forwarded routes below its mount.

    Its arguments are those of `AppBridge`.
    """

    timeout_s = SYNC_TIMEOUT_S

    @cached_property
    def _application(self) -> Application:
        return Application(self._bridge, self._routes)

    def middleware(self, app: WSGIApplication) -> ServeBridgeMiddleware:
        """Return *app* behind a middleware that answers this bridge's routes.

        Raises:
            ConfigError: It was given none.
        """
        return ServeBridgeMiddleware(app, bridge=self)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        return self._application(environ, start_response)


class ServeBridgeMiddleware:
    """WSGI middleware: forwards the requests that match *routes*, and hands on everything else.

    Errors are answered here, with a problem: the application's own handlers are behind it. So is what a view of the
    application does not catch of `errors.UNAVAILABLE`, unless its framework has answered already.

    Args:
        app: What is behind it.
        routes: What is forwarded; as for `ServeBridge`. None: the routes of *bridge*.
        bridge: Leads to the instance; None: one is made of *address* and the options, which are those of `ServeBridge`.
        address: See `ServeBridge`.
        options: See `BridgeOptions`.

    Attributes:
        bridge: What leads to the instance.

    Raises:
        TypeError, ConfigError: An argument is none that it can be; or nothing says what is forwarded.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        routes: Mapping[str, Any] | None = None,
        bridge: ServeBridge | None = None,
        address: str | None = None,
        **options: Unpack[BridgeOptions],
    ) -> None:
        self._app = app
        self.bridge = bridge or ServeBridge(address, routes=routes, **options)
        self._patterns = self.bridge.patterns(routes)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Forward, or hand on, one request."""
        found = self._patterns.match(path_below(environ))
        if found is not None and found.takes(environ["REQUEST_METHOD"]):
            return _forward(self.bridge._bridge, found, environ, start_response)
        with in_request(environ.get("HTTP_X_REQUEST_ID")):
            starting = _Starting(start_response)
            try:
                return self._app(environ, starting)
            except UNAVAILABLE as error:
                if starting.started:
                    raise
                return _send(refused(error), environ["REQUEST_METHOD"], start_response)


class Application:
    """Answers forwarded routes below its mount, and 404 or 405 where it has none.

    Args:
        bridge: Leads to the instance.
        routes: What is answered; None: the instance's own routes.
    """

    def __init__(self, bridge: Bridge, routes: Patterns | None) -> None:
        self._bridge = bridge
        self._routes = routes
        self._instance_routes = InstanceRoutes()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        method = environ["REQUEST_METHOD"]
        found: Match | Outcome
        try:
            patterns = self._routes or self._instance_routes.of(self._bridge.link().routing_table())
            found = route_of(patterns, path_below(environ), method)
        except ServeBridgeError as error:
            found = refused(error)
        if isinstance(found, Match):
            return _forward(self._bridge, found, environ, start_response)
        return _send(found, method, start_response)


def _forward(bridge: Bridge, found: Match, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    method = environ["REQUEST_METHOD"]
    outcome = bridge.ask(found.route, scope_of(environ), found.path_params, body_of(environ), WebRequest(environ))
    report(outcome)
    return _send(outcome, method, start_response)


class _Starting:
    """The `start_response` of an application behind the middleware; it knows whether it was called."""

    def __init__(self, start_response: StartResponse) -> None:
        self._start_response = start_response
        self.started = False

    def __call__(self, *arguments: Any) -> Callable[[bytes], object]:
        self.started = True
        return self._start_response(*arguments)


def _send(outcome: Outcome, method: str, start_response: StartResponse) -> Iterable[bytes]:
    start_response(_status_line(outcome.status), outcome.text_headers)
    if method == "HEAD":
        if not isinstance(outcome.body, bytes):
            outcome.body.close()
        return iter((b"",))  # servers take the length of a list, or of no piece at all, for that of the answer: 0
    return [outcome.body] if isinstance(outcome.body, bytes) else outcome.body


def _status_line(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} Unknown"


class _Adapter:
    """What the entry point names; see `serve_bridge.adapters.Adapter`."""

    name = "wsgi"
    interface: Literal["wsgi"] = "wsgi"

    def application(self, bridge: Bridge, routes: Sequence[RouteSpec]) -> WSGIApplication:
        """Return an application that answers *routes*."""
        return Application(bridge, Patterns(routes))


ADAPTER: Final = _Adapter()
