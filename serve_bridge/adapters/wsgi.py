"""Any WSGI framework: an application that answers forwarded routes, and a middleware that does so ahead of another.

    app = ServeBridge(routes={"/classify": {"endpoint": "classify", "methods": ["POST"]}})
    app = ServeBridgeMiddleware(app, routes={"/models/{name}": "model"})

Rule 1: what nobody has named passes a middleware untouched: other routes, other methods.
Rule 2: an application answers by itself what is not its own: 404, 405, each as a problem (RFC 9457).
Rule 3: nothing connects before the first request, so that a server may fork as it likes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Literal

from serve_bridge import checks
from serve_bridge.adapters.blocking import Readable
from serve_bridge.adapters.bridge import SYNC_TIMEOUT_S, Bridge, Outcome, refused
from serve_bridge.adapters.environ import has_unframed_body, headers_of, path_below, peer_of, scope_of, server_of
from serve_bridge.adapters.instance_routes import InstanceRoutes
from serve_bridge.adapters.patterns import Match, Patterns
from serve_bridge.adapters.route import RouteSpec, parse_routes
from serve_bridge.client import Client
from serve_bridge.errors import ConfigError, ServeBridgeError, shown
from serve_bridge.handle import Handle
from serve_bridge.results import Answer, problem

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["ServeBridge", "ServeBridgeMiddleware", "WebRequest", "headers_of", "peer_of", "scope_of", "server_of"]


@dataclass(frozen=True, slots=True)
class WebRequest:
    """What the `context` of a route is given.

    Attributes:
        environ: The request's WSGI environment; `{"user": "environ.REMOTE_USER"}` names a key of it.
    """

    environ: Mapping[str, Any]


class ServeBridge:
    """An app's bridge to an instance, and a WSGI application that answers forwarded routes below its mount.

    Args:
        address: What `serve_bridge.connect` takes; None: SERVE_BRIDGE_ADDRESS, else this user's instance.
        routes: What it answers: a dict of paths in Starlette's syntax, each with the name of an endpoint, or with a
            dict of "endpoint", "methods" (default: every one) and the options of `RouteOptions`. None: every route
            of the instance, as the routing table has them at that moment.
        name: Which of this user's instances.
        timeout_s: Seconds a forwarded request may take, where a route says nothing else; the default is less than
            the 30 s after which gunicorn kills a worker.
        runtime: "local" starts an instance inside this process on first use, for development and tests.
        backends: What is deployed to an instance that is started here; what `serve_bridge.deploy` takes.

    Raises:
        TypeError, ConfigError: An argument is none that it can be; the message names it.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        routes: Mapping[str, Any] | None = None,
        name: str = "default",
        timeout_s: float = SYNC_TIMEOUT_S,
        runtime: str | None = None,
        backends: Iterable[Any] = (),
    ) -> None:
        if address is not None and not isinstance(address, str):
            raise TypeError(f"address must be a str, got {shown(address)}; routes go to routes={{...}}")
        declared = checks.listed("backends", backends)
        self._bridge = Bridge(
            address,
            name=name,
            runtime=runtime,
            timeout_s=checks.seconds()("timeout_s", timeout_s),
            declared=lambda: declared,
        )
        self._routes = None if routes is None else Patterns(parse_routes(routes, "routes"))
        self._instance_routes = InstanceRoutes()

    @property
    def client(self) -> Client:
        """The client.

        Raises:
            NotConnected: No instance is running where it was looked for.
        """
        return self._bridge.client()

    def get_handle(self, endpoint: str) -> Handle:
        """Return a handle for the app to call."""
        return self._bridge.get_handle(endpoint)

    def close(self) -> None:
        """Let go of the instance, and end it if it was started here; the next use connects again."""
        self._bridge.close()

    def middleware(self, app: WSGIApplication) -> ServeBridgeMiddleware:
        """Return *app* behind a middleware that answers this bridge's routes.

        Raises:
            ConfigError: It was given none.
        """
        return ServeBridgeMiddleware(app, bridge=self)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        method = environ["REQUEST_METHOD"]
        try:
            found = self._patterns().match(path_below(environ))
        except ServeBridgeError as error:
            return _send(refused(error), method, start_response)
        if found is None:
            detail = f"no route matches {path_below(environ)[:200]!r}"
            return _send(_outcome(problem(404, "Not Found", detail)), method, start_response)
        if not found.takes(method):
            return _send(_not_allowed(found.methods or ()), method, start_response)
        return _forward(self._bridge, found, environ, start_response)

    def _patterns(self) -> Patterns:
        if self._routes is not None:
            return self._routes
        return self._instance_routes.of(self._bridge.client().routing_table())


class ServeBridgeMiddleware:
    """WSGI middleware: forwards the requests that match *routes*, and hands on everything else.

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
        name: str = "default",
        timeout_s: float = SYNC_TIMEOUT_S,
        runtime: str | None = None,
        backends: Iterable[Any] = (),
    ) -> None:
        self._app = app
        self.bridge = bridge or ServeBridge(
            address, routes=routes, name=name, timeout_s=timeout_s, runtime=runtime, backends=backends
        )
        patterns = self.bridge._routes if routes is None else Patterns(parse_routes(routes, "routes"))
        if patterns is None:
            raise ConfigError("a middleware forwards what it is told to: give it routes={'/path': 'endpoint'}")
        self._patterns = patterns

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Forward, or hand on, one request."""
        found = self._patterns.match(path_below(environ))
        if found is not None and found.takes(environ["REQUEST_METHOD"]):
            return _forward(self.bridge._bridge, found, environ, start_response)
        return self._app(environ, start_response)


def _forward(bridge: Bridge, found: Match, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    method = environ["REQUEST_METHOD"]
    if has_unframed_body(environ):
        detail = "this server cannot tell where a body without a Content-Length ends"
        return _send(_outcome(problem(411, "Length Required", detail)), method, start_response)
    body: Readable = environ["wsgi.input"]
    outcome = bridge.ask(found.route, scope_of(environ), found.path_params, body, WebRequest(environ))
    return _send(outcome, method, start_response)


def _send(outcome: Outcome, method: str, start_response: StartResponse) -> Iterable[bytes]:
    start_response(_status_line(outcome.status), outcome.text_headers)
    if method == "HEAD":
        if not isinstance(outcome.body, bytes):
            outcome.body.close()
        return []
    return [outcome.body] if isinstance(outcome.body, bytes) else outcome.body


def _status_line(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} Unknown"


def _not_allowed(methods: Iterable[str]) -> Outcome:
    allowed = ", ".join(sorted(methods))
    answer = problem(405, "Method Not Allowed", f"allowed: {allowed}")
    answer.headers.append((b"allow", allowed.encode()))
    return _outcome(answer)


def _outcome(answer: Answer) -> Outcome:
    return Outcome(answer.status, answer.headers, answer.body)


class _Adapter:
    """What the entry point names; see `serve_bridge.adapters.Adapter`."""

    name = "wsgi"
    interface: Literal["wsgi"] = "wsgi"

    def application(self, bridge: Bridge, routes: Sequence[RouteSpec]) -> WSGIApplication:
        """Return an application that answers *routes*."""
        owner = ServeBridge(routes={})
        owner._bridge, owner._routes = bridge, Patterns(routes)
        return owner


ADAPTER: Final = _Adapter()
