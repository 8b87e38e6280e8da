"""Any WSGI framework: an application that answers forwarded routes, and a middleware for your own application.

    app = ServeBridge(routes={"/classify": {"endpoint": "classify", "methods": ["POST"]}})
    app = ServeBridgeMiddleware(app, routes={"/models/{name}": "model"})

Rule 1: the middleware passes all other requests on unchanged: other paths, other methods.
Rule 2: the application answers all other requests itself, with 404 or 405 and a problem document (RFC 9457).
Rule 3: nothing connects before the first request, so a server may fork at any time before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from serve_bridge.adapters.bridge.app_bridge import AppBridge
from serve_bridge.adapters.bridge.app_middleware import AppMiddleware
from serve_bridge.adapters.bridge.forwarded_route import SYNC_TIMEOUT_S
from serve_bridge.adapters.bridge.outcome import refused
from serve_bridge.adapters.bridge.patterns import Patterns
from serve_bridge.adapters.bridge.route_spec import RouteSpec
from serve_bridge.adapters.bridge.view_stream import ViewStream
from serve_bridge.adapters.environ import headers_of, path_below, peer_of, scope_of, server_of
from serve_bridge.adapters.wsgi.forwarding import forward_over_wsgi, send_outcome
from serve_bridge.adapters.wsgi.routes_app import RoutesApp
from serve_bridge.context import in_request
from serve_bridge.errors import UNAVAILABLE

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from serve_bridge.adapters.bridge.bridge import Bridge

__all__ = ["ServeBridge", "ServeBridgeMiddleware", "headers_of", "peer_of", "scope_of", "server_of"]


class ServeBridge(AppBridge):
    """An app's bridge to an instance, and a WSGI application that answers forwarded routes below its mount.

    The arguments are those of `AppBridge`.
    """

    timeout_s = SYNC_TIMEOUT_S

    @cached_property
    def _application(self) -> RoutesApp:
        return RoutesApp(self._bridge, self._routes)

    def middleware(self, app: WSGIApplication) -> ServeBridgeMiddleware:
        """Return *app* behind a middleware that forwards the routes of this bridge.

        Raises:
            ConfigError: The bridge has no routes.
        """
        return ServeBridgeMiddleware(app, bridge=self)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        return self._application(environ, start_response)


class ServeBridgeMiddleware(AppMiddleware["WSGIApplication"]):
    """WSGI middleware: forwards requests that match *routes*, and passes all others to *app*.

    If a forwarded request fails, the middleware answers with a problem document, because the error handlers of *app*
    are behind it. If a view of *app* does not catch an error of `errors.UNAVAILABLE`, the middleware answers with a 503
    problem, unless the framework has begun to answer.

    The arguments and attributes are those of `AppMiddleware`.
    """

    bridge_class: ClassVar[type[AppBridge]] = ServeBridge

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Forward one request, or pass it on."""
        method = environ["REQUEST_METHOD"]
        found = self._match(path_below(environ), method)
        if found is not None:
            return forward_over_wsgi(self._bridge, found, environ, start_response)
        with in_request(environ.get("HTTP_X_REQUEST_ID")) as request_id:
            starting = _Starting(start_response)
            try:
                body = self._app(environ, starting)
            except UNAVAILABLE as error:
                if starting.started:
                    raise
                return send_outcome(refused(error, in_view=True), method, start_response)
        return ViewStream(body, request_id) if _is_made_later(body, environ) else body


def _is_made_later(body: Iterable[bytes], environ: WSGIEnvironment) -> bool:
    """Return whether code of the application makes the pieces of *body*, and makes them while the server iterates.

    A server sends a file in its own wrapper faster than by pieces, and it needs the length of a list.
    """
    wrapper = environ.get("wsgi.file_wrapper")
    if isinstance(wrapper, type) and isinstance(body, wrapper):
        return False
    return not any(hasattr(body, name) for name in ("__len__", "read", "filelike"))


class _Starting:
    """The `start_response` for the application behind the middleware; it records whether it was called."""

    def __init__(self, start_response: StartResponse) -> None:
        self._start_response = start_response
        self.started = False

    def __call__(self, *arguments: Any) -> Callable[[bytes], object]:
        self.started = True
        return self._start_response(*arguments)


class _Adapter:
    """The adapter, for its entry point; see `serve_bridge.adapters.Adapter`."""

    name = "wsgi"
    interface: Literal["wsgi"] = "wsgi"

    def application(self, bridge: Bridge, routes: Sequence[RouteSpec]) -> WSGIApplication:
        """Return an application that answers *routes*."""
        return RoutesApp(bridge, Patterns(routes))


ADAPTER: Final = _Adapter()
