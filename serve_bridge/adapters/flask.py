"""Flask: routes of an app that are answered by endpoints, and handles for its views.

    bridge = ServeBridge()
    bridge.init_app(app)
    app.add_url_rule("/classify", view_func=bridge.view("classify"), methods=["POST"])

Rule 1: state lives in `app.extensions["serve_bridge"]`, so that one extension may serve several apps.
Rule 2: the app stays in force: `before_request`, `after_request`, `errorhandler`, `MAX_CONTENT_LENGTH`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Unpack, cast

from flask import Flask, Response, current_app, request
from werkzeug.exceptions import HTTPException, default_exceptions

from serve_bridge.adapters.bridge import SYNC_TIMEOUT_S, Bridge, Outcome
from serve_bridge.adapters.route import ForwardedRoute, RouteOptions
from serve_bridge.adapters.wsgi import scope_of
from serve_bridge.client import Client
from serve_bridge.handle import Handle

__all__ = ["ServeBridge"]

EXTENSION: Final = "serve_bridge"


class ServeBridge:
    """Flask extension: forwards chosen routes of an app to endpoints.

    Configuration: `SERVE_BRIDGE_ADDRESS` (default: the environment variable of that name, else the instance
    of this user on this machine), `SERVE_BRIDGE_NAME` ("default"), `SERVE_BRIDGE_TIMEOUT_S` (25, less than
    the 30 s after which gunicorn kills a worker).
    """

    def __init__(self, app: Flask | None = None) -> None:
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Register with *app*; nothing connects before its first request. Twice changes nothing."""
        app.config.setdefault("SERVE_BRIDGE_ADDRESS", None)
        app.config.setdefault("SERVE_BRIDGE_NAME", "default")
        app.config.setdefault("SERVE_BRIDGE_TIMEOUT_S", SYNC_TIMEOUT_S)
        if EXTENSION not in app.extensions:
            app.extensions[EXTENSION] = Bridge(
                app.config["SERVE_BRIDGE_ADDRESS"],
                name=app.config["SERVE_BRIDGE_NAME"],
                timeout_s=app.config["SERVE_BRIDGE_TIMEOUT_S"],
            )

    @property
    def client(self) -> Client:
        """The current app's client.

        Raises:
            NotConnected: No instance is running where it was looked for.
        """
        return _bridge().client()

    def get_handle(self, endpoint: str) -> Handle:
        """Return a handle for a view of the current app to call."""
        return _bridge().get_handle(endpoint)

    def view(self, endpoint: str, **options: Unpack[RouteOptions]) -> Callable[..., Response]:
        """Return a view that forwards its requests to *endpoint*; see `RouteOptions` for the options.

        What goes wrong on the way is raised as the `werkzeug` exception of its status (404, 502, 503, 504),
        so that the app's error handlers run; what user code raised, as `BackendError`.

        Raises:
            TypeError, ConfigError: An option is unknown, or has a value that it cannot have.
        """
        route = ForwardedRoute(endpoint, options)

        def view(**path_params: Any) -> Response:
            return _response(_bridge().ask(route, scope_of(request.environ), path_params, request.stream, request))

        view.__name__ = view.__qualname__ = f"serve_bridge_{endpoint}"  # Flask names the route after it
        return view


def _bridge() -> Bridge:
    bridge = current_app.extensions.get(EXTENSION)
    if bridge is None:
        raise RuntimeError("this app has no serve_bridge; call ServeBridge().init_app(app) first")
    return cast(Bridge, bridge)


def _response(outcome: Outcome) -> Response:
    response = Response(outcome.body, outcome.status)
    response.headers.clear()
    for name, value in outcome.text_headers:
        response.headers.add(name, value)
    kind: type[HTTPException] | None = default_exceptions.get(outcome.status)
    if outcome.error is not None and kind is not None:
        raise kind(response=response)
    return response
