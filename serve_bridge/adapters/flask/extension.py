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
    "this ServeBridge was registered with an app already, which would not get the rule; call `bridge.route` before "
    "`bridge.init_app(app)`, or app.add_url_rule({rule!r}, view_func=bridge.view({endpoint!r}))"
)


class ServeBridge:
    """Flask extension: forwards chosen routes of an app to endpoints.

    It keeps no app: one may serve several, and `init_app` may be called by an app factory.

    Configuration, which `app.config.from_prefixed_env()` may fill, and `init_app` reads:

    - `SERVE_BRIDGE_ADDRESS`: where the instance is; default: the environment variable of that name, else the instance
      of this user on this machine.
    - `SERVE_BRIDGE_NAME`: which of this user's instances; "default".
    - `SERVE_BRIDGE_TIMEOUT_S`: seconds a forwarded request may take; 25, less than the 30 s after which gunicorn
      kills a worker.
    - `SERVE_BRIDGE_ROUTES`: `{rule: endpoint}`, or `{rule: {"endpoint": ..., "methods": [...], "name": ...}}` with
      `RouteOptions`: forwarded before the app's own routing.
    - `SERVE_BRIDGE_BACKENDS`: modules with declarations, or their import paths.
    - `SERVE_BRIDGE_RUNTIME`: "local" runs these backends inside this process, for development and tests.
    """

    def __init__(self, app: Flask | None = None, *, backends: Iterable[object] = ()) -> None:
        """Take what every app gets.

        Args:
            app: `init_app` is called with it.
            backends: Modules with declarations, declared objects, or import paths of both; beside
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
        """Register with *app*; nothing connects before its first request. Twice changes nothing.

        Raises:
            ConfigError: A setting is unknown, the message suggests the nearest one; or it has a bad value.
            TypeError: A setting is of a wrong type.
        """
        if EXTENSION in app.extensions:
            return
        # Late: importing the adapter loads no client. Here it is loaded before a web server forks.
        from serve_bridge.adapters.flask.flask_bridge import FlaskBridge

        settings = read_settings(app)
        settings = replace(settings, backends=(*self._backends, *settings.backends))
        check_patterns(app, self._routes, "route")
        check_patterns(app, settings.routes, PREFIX + "ROUTES")
        register_routes(app, self._routes, settings.routes)
        app.extensions[EXTENSION] = FlaskBridge(settings)
        app.after_request(show_request_id)
        for kind in UNAVAILABLE:
            if kind not in app.error_handler_spec[None][None]:  # the app's own handler stays
                app.register_error_handler(kind, answer_unavailable)
        app.cli.add_command(group)
        self._registered = True

    @property
    def client(self) -> Client:
        """The current app's client.

        Raises:
            NotConnected: No instance is running where it was looked for.
        """
        return current_bridge().client()

    def get_handle(self, endpoint: str) -> Handle:
        """Return a handle for a view of the current app to call.

        A view need not catch what cannot be reached now: a missing endpoint or instance, a full queue. The app's
        handling of `ServiceUnavailable` answers it.
        """
        return current_bridge().get_handle(endpoint)

    def view(self, endpoint: str, **options: Unpack[RouteOptions]) -> ForwardingView:
        """Return a view that forwards its requests to *endpoint*; see `RouteOptions` for the options.

        As every view it answers the methods that its rule names, GET by default. `context` begins at `request`,
        `session` or `g`: `{"user_id": "session.user_id"}`; a function is given an object with these three.

        What fails on the way is raised as the `werkzeug` exception of its status (400, 404, 413, 502, 503, 504), so
        that the app's error handlers run; what user code raised, as `BackendError`.

        Raises:
            TypeError, ConfigError: An option is unknown, or has a value that it cannot have.
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
        """Let every app that this is registered with from now on forward *rule* to *endpoint*.

        Args:
            rule: As in `app.route`.
            endpoint: Whom its requests are for.
            methods: As in `app.route`; None: GET, HEAD, POST, PUT, PATCH, DELETE.
            name: `url_for("serve_bridge.<name>")`; None: the endpoint's.
            options: See `RouteOptions`.

        Raises:
            RuntimeError: It is registered with an app already; as a blueprint's, its rules are complete then.
            TypeError, ConfigError: An option is unknown, or has a value that it cannot have.
        """
        if self._registered:
            raise RuntimeError(_LATE.format(rule=rule, endpoint=endpoint))
        ForwardedRoute(endpoint, options)  # what it says of a bad option reads better than what is said of an entry
        entry = {"endpoint": endpoint, "methods": methods, **({} if name is None else {"name": name}), **options}
        self._routes += parse_routes({rule: entry}, "route", extra=ROUTE_EXTRA)

    def blueprint(self, name: str, import_name: str, *, routes: Mapping[str, Any], **options: Any) -> Blueprint:
        """Return a blueprint whose rules forward to endpoints.

            app.register_blueprint(bridge.blueprint("models", __name__, url_prefix="/models", routes={
                "/digits": "digits",
                "/users/<int:user_id>": {"endpoint": "users", "methods": ["GET"], "timeout_s": 5},
            }))

        More rules and hooks may be added to it; `url_for("models.digits")` finds the first.

        Args:
            name: The blueprint's name.
            import_name: `__name__`.
            routes: As `SERVE_BRIDGE_ROUTES`, but they take their turn among the app's rules.
            options: As `flask.Blueprint` takes them, `url_prefix` for one.

        Raises:
            TypeError, ConfigError: An entry of *routes* is none, or its rule has a parameter in braces.
        """
        blueprint = Blueprint(name, import_name, **options)
        specs = parse_routes(routes, "routes", extra=ROUTE_EXTRA)
        for spec in specs:
            refuse_braces(spec.pattern)
        add_routes(blueprint, specs)
        return blueprint
