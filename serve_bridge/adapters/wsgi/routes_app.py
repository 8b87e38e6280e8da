"""The WSGI application that answers forwarded routes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from serve_bridge.adapters.bridge.app_routes import AppRoutes
from serve_bridge.adapters.bridge.outcome import Outcome, refused
from serve_bridge.adapters.bridge.patterns import Match, Patterns
from serve_bridge.adapters.environ import path_below
from serve_bridge.adapters.wsgi.forwarding import forward_over_wsgi, send_outcome
from serve_bridge.errors import ServeBridgeError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from serve_bridge.adapters.bridge.bridge import Bridge


class RoutesApp:
    """An application that forwards its routes below its mount, and answers 404 or 405 to other requests.

    Args:
        bridge: The bridge to the instance.
        routes: The routes to forward; None: all routes of the instance.
    """

    def __init__(self, bridge: Bridge, routes: Patterns | None) -> None:
        self._bridge = bridge
        self._routes = AppRoutes(routes)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        method = environ["REQUEST_METHOD"]
        found: Match | Outcome
        try:
            table = None if self._routes.own else self._bridge.link().routing_table()
            found = self._routes.find(path_below(environ), method, table)
        except ServeBridgeError as error:
            found = refused(error)
        if isinstance(found, Match):
            return forward_over_wsgi(self._bridge, found, environ, start_response)
        return send_outcome(found, method, start_response)
