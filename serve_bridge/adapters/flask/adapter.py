"""The entry point of the Flask adapter: apps whose only routes are forwarded ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

from flask import Flask

from serve_bridge.adapters import RouteSpec, translate
from serve_bridge.adapters.bridge.forwarded_route import ForwardedRoute
from serve_bridge.adapters.flask.current_bridge import EXTENSION
from serve_bridge.adapters.flask.extension import ServeBridge
from serve_bridge.adapters.flask.routing import METHODS
from serve_bridge.adapters.flask.view import ForwardingView

if TYPE_CHECKING:
    from serve_bridge.adapters import Bridge

_SYNTAX: Final = {
    "str": "<string:{}>",
    **{converter: f"<{converter}:{{}}>" for converter in ("int", "float", "path", "uuid")},
}


class _Adapter:
    """The adapter, for its entry point; see `serve_bridge.adapters.Adapter`."""

    name = "flask"
    interface: Literal["wsgi"] = "wsgi"

    def application(self, bridge: Bridge, routes: Sequence[RouteSpec]) -> Flask:
        """Return an app with *routes*."""
        app = Flask(__name__, static_folder=None)
        ServeBridge(app)
        app.extensions[EXTENSION] = bridge
        for number, route in enumerate(routes):
            view = ForwardingView(ForwardedRoute(route.endpoint, route.options), f"route_{number}")
            app.add_url_rule(translate(route.pattern, _SYNTAX), view_func=view, methods=route.methods or METHODS)
        return app


ADAPTER: Final = _Adapter()
