"""The Flask extension."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Unpack

from flask import Blueprint, Flask

from serve_bridge.adapters.bridge.forwarded_route import ForwardedRoute, RouteOptions
from serve_bridge.adapters.bridge.patterns import refuse_braces
from serve_bridge.adapters.bridge.route_spec import RouteSpec, parse_routes
from serve_bridge.adapters.flask.commands import group
from serve_bridge.adapters.flask.current_bridge import EXTENSION, current_bridge
from serve_bridge.adapters.flask.routing import add_routes, check_patterns, register_routes, view_name
from serve_bridge.adapters.flask.settings import PREFIX, ROUTE_EXTRA, read_settings
from serve_bridge.adapters.flask.view import ForwardingView, answer_unavailable, show_request_id
from serve_bridge.config.checks import listed
from serve_bridge.errors import UNAVAILABLE
from serve_bridge.printable import shown

if TYPE_CHECKING:
    from serve_bridge.client.client import Client
    from serve_bridge.client.handle import Handle

_LATE: Final = (
    "this ServeBridge is registered with an app already, and the app would not get the rule; "
    "call `bridge.route` before `bridge.init_app(app)`, "
    "or app.add_url_rule({rule!r}, view_func=bridge.view({endpoint!r}))"
)


class ServeBridge:
    """Flask extension: forwards routes of an app to endpoints.

    One extension may serve several apps, and an app factory may call `init_app`.

    `init_app` reads these keys of the configuration. `app.config.from_prefixed_env()` may set them:

    - `SERVE_BRIDGE_ADDRESS`: address of the instance. Default: the environment variable of the same name, otherwise the
      instance of this user on this machine.
    - `SERVE_BRIDGE_NAME`: name of the instance among those of this user. Default: "default".
    - `SERVE_BRIDGE_TIMEOUT_S`: time limit of a forwarded request in seconds. Default: 25, less than the 30 s after
      which gunicorn kills a worker.
    - `SERVE_BRIDGE_ROUTES`: `{rule: endpoint}`, or `{rule: {"endpoint": ..., "methods": [...], "name": ...}}` with
      `RouteOptions`. These routes come before the app's own routing.
    - `SERVE_BRIDGE_BACKENDS`: modules with declarations, or their import paths.
    - `SERVE_BRIDGE_RUNTIME`: "local" runs these backends inside this process, for development and tests.
    """

    def __init__(self, app: Flask | None = None, *, backends: Iterable[object] = ()) -> None:
        """Make an extension, and register it with *app* if that is given.

        Args:
            app: The app for `init_app`.
            backends: Modules with declarations, declared objects, or import paths of both; in addition to
                `SERVE_BRIDGE_BACKENDS`.

        Raises:
            TypeError: *app* is not an app.
            ConfigError: *backends* is not a list.
        """
        if app is not None and not isinstance(app, Flask):
            raise TypeError(f"ServeBridge takes a Flask app, or nothing and later init_app(app), got {shown(app)}")
        self._backends = listed("backends", backends)
        self._routes: list[RouteSpec] = []
        self._registered = False
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Register with *app*. Nothing connects before the first request. A second call for an app does nothing.

        Raises:
            ConfigError: A setting is unknown, and the message suggests the nearest one; or a setting has a wrong value.
            TypeError: A setting has a wrong type.
        """
        if EXTENSION in app.extensions:
            return
        # Late: importing the adapter must not load the client. Here the bridge loads it, before a web server forks.
        from serve_bridge.adapters.flask.flask_bridge import FlaskBridge

        settings = read_settings(app)
        settings = replace(settings, backends=(*self._backends, *settings.backends))
        check_patterns(app, self._routes, "route")
        check_patterns(app, settings.routes, PREFIX + "ROUTES")
        register_routes(app, self._routes, settings.routes)
        app.extensions[EXTENSION] = FlaskBridge(settings)
        app.after_request(show_request_id)
        for kind in UNAVAILABLE:
            if kind not in app.error_handler_spec[None][None]:  # an own handler of the app takes precedence
                app.register_error_handler(kind, answer_unavailable)
        app.cli.add_command(group)
        self._registered = True

    @property
    def client(self) -> Client:
        """The client of the current app.

        Raises:
            NotConnected: No instance is running at the address.
        """
        return current_bridge().client()

    def get_handle(self, endpoint: str) -> Handle:
        """Return a handle for a view of the current app.

        A view need not catch the error of a missing endpoint or instance, or of a full queue. Such an error becomes
        `ServiceUnavailable`, which the app's error handlers may answer.
        """
        return current_bridge().get_handle(endpoint)

    def view(self, endpoint: str, **options: Unpack[RouteOptions]) -> ForwardingView:
        """Return a view that forwards its requests to *endpoint*; see `RouteOptions` for the options.

        The rule names the methods of the view, by default GET. A path in `context` begins with `request`, `session` or
        `g`: `{"user_id": "session.user_id"}`. A `context` function gets an object with these three attributes.

        A failure raises the `werkzeug` exception of its status (400, 404, 413, 502, 503, 504), so the app's error
        handlers run. An exception of user code raises `BackendError`.

        Raises:
            TypeError, ConfigError: An option is unknown or has a wrong value.
        """
        route = ForwardedRoute(endpoint, options)
        return ForwardingView(route, f"serve_bridge_{view_name(route)}")  # Flask names the rule after it

    def route(
        self,
        rule: str,
        endpoint: str,
        *,
        methods: Iterable[str] | None = None,
        name: str | None = None,
        **options: Unpack[RouteOptions],
    ) -> None:
        """Forward *rule* to *endpoint* in every app that this extension is registered with later.

        Args:
            rule: The rule, as in `app.route`.
            endpoint: Name of the endpoint.
            methods: The HTTP methods, as in `app.route`; None: GET, HEAD, POST, PUT, PATCH, DELETE.
            name: The name in `url_for("serve_bridge.<name>")`; None: the name of the endpoint.
            options: See `RouteOptions`.

        Raises:
            RuntimeError: The extension is registered with an app already, which would not get the rule.
            TypeError, ConfigError: An option is unknown or has a wrong value.
        """
        if self._registered:
            raise RuntimeError(_LATE.format(rule=rule, endpoint=endpoint))
        ForwardedRoute(endpoint, options)  # its error messages suit arguments better than those of `parse_routes`
        entry = {"endpoint": endpoint, "methods": methods, **({} if name is None else {"name": name}), **options}
        self._routes += parse_routes({rule: entry}, "route", extra=ROUTE_EXTRA)

    def blueprint(self, name: str, import_name: str, *, routes: Mapping[str, Any], **options: Any) -> Blueprint:
        """Return a blueprint whose rules forward to endpoints. More rules and hooks may be added to it.

        Args:
            name: The name of the blueprint.
            import_name: `__name__`.
            routes: Routes as in `SERVE_BRIDGE_ROUTES`. They do not come before the app's other rules.
            options: Options of `flask.Blueprint`, such as `url_prefix`.

        Raises:
            TypeError, ConfigError: An entry of *routes* is wrong, or its rule has a parameter in braces.

        Example:
            ```
            app.register_blueprint(bridge.blueprint("models", __name__, url_prefix="/models", routes={
                "/digits": "digits",  # url_for("models.digits")
                "/users/<int:user_id>": {"endpoint": "users", "methods": ["GET"], "timeout_s": 5},
            }))
            ```
        """
        blueprint = Blueprint(name, import_name, **options)
        specs = parse_routes(routes, "routes", extra=ROUTE_EXTRA)
        for spec in specs:
            refuse_braces(spec.pattern)
        add_routes(blueprint, specs)
        return blueprint
