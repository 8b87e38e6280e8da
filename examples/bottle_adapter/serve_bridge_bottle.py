"""Bottle: routes of an app that endpoints of serve_bridge answer."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Unpack
from uuid import UUID

from bottle import Bottle, HTTPError, HTTPResponse, request

from serve_bridge.adapters import Bridge, ForwardedRoute, Outcome, RouteOptions, RouteSpec, report, translate
from serve_bridge.adapters.environ import scope_of

SYNTAX = {"str": "<{}>", "int": "<{}:int>", "float": "<{}:float>", "path": "<{}:path>", "uuid": "<{}:uuid>"}


def forward(bridge: Bridge, endpoint: str, **options: Unpack[RouteOptions]) -> Callable[..., HTTPResponse]:
    """Return a callback for a route of Bottle that forwards its requests to *endpoint*."""
    route = ForwardedRoute(endpoint, options)

    def callback(**path_params: Any) -> HTTPResponse:
        environ = {**request.environ, "PATH_INFO": request.environ["bottle.raw_path"]}  # Bottle has decoded the other
        return _response(bridge.ask(route, scope_of(environ), path_params, environ["wsgi.input"], request))

    return callback


def _response(outcome: Outcome) -> HTTPResponse:
    if outcome.error is None:
        # Bottle says that an empty body has the length 0. It sends no body with HEAD, so any other will do.
        body = iter([b"-"]) if request.method == "HEAD" else outcome.body
        return HTTPResponse(body, outcome.status, outcome.text_headers)
    report(outcome, raised=True)  # Bottle logs no HTTPError
    # An HTTPError goes to the error handlers of the app.
    error = HTTPError(outcome.status, exception=outcome.error)
    for name, value in outcome.text_headers:
        if name in ("retry-after", "x-request-id", "x-serve-executed"):
            error.set_header(name, value)
    return error


class BottleAdapter:
    """The adapter of the entry point."""

    name = "bottle"
    interface: Literal["wsgi"] = "wsgi"

    def application(self, bridge: Bridge, routes: Sequence[RouteSpec]) -> Bottle:
        """Return an app of Bottle that forwards *routes*."""
        app = Bottle()
        app.router.add_filter("uuid", lambda _: ("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", UUID, str))
        for route in routes:
            callback = forward(bridge, route.endpoint, **route.options)
            app.route(translate(route.pattern, SYNTAX), list(route.methods or ["ANY"]), callback)
        return app


ADAPTER = BottleAdapter()
