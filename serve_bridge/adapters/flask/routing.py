"""Forwarded routes as rules of an app: added to the app or to a blueprint, or put before all other rules.

Rule 1: a forwarded route is a rule of the app, so `url_for`, `flask routes`, converters and hooks work with it.
Rule 2: routes before the app's own routing are matched before the first hook runs. So hooks that guard an endpoint or a
        view (login, CSRF) see the view that will answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from flask import Blueprint, Flask, request, request_started
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.routing import Map, RequestRedirect, Rule

from serve_bridge.adapters.bridge.forwarded_route import ForwardedRoute
from serve_bridge.adapters.bridge.patterns import refuse_braces
from serve_bridge.adapters.bridge.route_spec import RouteSpec
from serve_bridge.adapters.flask.view import ForwardingView
from serve_bridge.errors import ConfigError

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
"""Default methods of a forwarded route. Flask adds HEAD to GET, and answers OPTIONS."""

BLUEPRINT: Final = "serve_bridge"
"""Name of the blueprint for the routes that the extension adds to an app."""

_AHEAD: Final = "serve_bridge_ahead"


def add_routes(blueprint: Blueprint, specs: Iterable[RouteSpec]) -> None:
    """Add a rule and its view to *blueprint* for each of *specs*.

    Raises:
        ConfigError: Two different routes have the same name.
    """
    views: dict[str, tuple[RouteSpec, ForwardingView]] = {}
    for spec in specs:
        route = ForwardedRoute(spec.endpoint, spec.options)
        name = spec.extra.get("name") or view_name(route)
        first, view = views.setdefault(name, (spec, ForwardingView(route, name)))
        if (first.endpoint, first.options) != (spec.endpoint, spec.options):
            raise ConfigError(
                f"the forwarded routes {first.pattern!r} and {spec.pattern!r} are both named {name!r}, and differ; "
                "give one of them another 'name'"
            )
        methods = spec.methods if spec.methods is not None else METHODS
        blueprint.add_url_rule(spec.pattern, name, view, methods=methods)


def view_name(route: ForwardedRoute) -> str:
    """Return the name of a view of *route*, without dots, which Flask forbids."""
    return "_".join(filter(None, (route.endpoint, route.call_method))).replace(".", "_")


def check_patterns(app: Flask, specs: Iterable[RouteSpec], where: str) -> None:
    """Check that *app* can route the patterns of *specs*.

    Raises:
        ConfigError: A pattern has no leading slash, an unknown converter, or a parameter in braces.
    """
    for spec in specs:
        try:
            refuse_braces(spec.pattern)
            Rule(spec.pattern).bind(Map(converters=app.url_map.converters))
        except (LookupError, ValueError) as error:
            raise ConfigError(f"{where}[{spec.pattern!r}]: {error}") from error


def register_routes(app: Flask, routes: Iterable[RouteSpec], ahead: Iterable[RouteSpec]) -> None:
    """Add *routes* and *ahead* to *app*; those in *ahead* come before the app's own routing.

    Raises:
        ConfigError: Two different routes have the same name.
    """
    routes, ahead = tuple(routes), tuple(ahead)
    if not routes and not ahead:
        return
    blueprint = Blueprint(BLUEPRINT, __name__)
    add_routes(blueprint, (*routes, *ahead))
    first = len(list(app.url_map.iter_rules()))
    app.register_blueprint(blueprint)
    if ahead:
        added = list(app.url_map.iter_rules())[first:]
        app.extensions[_AHEAD] = Ahead(app, added[len(routes) :])


class Ahead:
    """Rules of an app that take precedence over its other rules."""

    def __init__(self, app: Flask, rules: Iterable[Rule]) -> None:
        own = app.url_map
        self._rules = tuple(rules)
        ahead = Map(
            [Rule(each.rule, endpoint=number, methods=each.methods) for number, each in enumerate(self._rules)],
            strict_slashes=own.strict_slashes,
            merge_slashes=own.merge_slashes,
            converters=own.converters,
        )
        self._adapter = ahead.bind("")
        # A signal, because it comes before all hooks, and before Flask chooses the blueprint whose hooks run.
        request_started.connect(self.route, app)

    def route(self, sender: Any, **_: Any) -> None:
        """Route the current request to the first matching rule, if there is one."""
        # Other errors of the routing, such as an untrusted host, must stay errors.
        if not isinstance(request.routing_exception, NotFound | MethodNotAllowed | RequestRedirect | None):
            return
        try:
            number, view_args = self._adapter.match(request.path, request.method)
        except HTTPException:
            return
        request.url_rule, request.view_args, request.routing_exception = self._rules[number], dict(view_args), None
