"""Forwarded routes among an app's rules: added to the app or a blueprint, and put before all others.

Rule 1: a forwarded route is a rule of the app: `url_for`, `flask routes`, converters and hooks know it.
Rule 2: a request that is forwarded before the app's own routing has been routed to our rule before the first hook
        runs, so that what guards an endpoint or a view (login, CSRF) sees the one that answers.
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
"""Methods of a forwarded route that names none; HEAD comes with GET, and OPTIONS is answered by Flask."""

BLUEPRINT: Final = "serve_bridge"
"""The blueprint of the routes that the extension itself adds to an app."""

_AHEAD: Final = "serve_bridge_ahead"


def add_routes(blueprint: Blueprint, specs: Iterable[RouteSpec]) -> None:
    """Add a rule and its view to *blueprint* for each of *specs*.

    Raises:
        ConfigError: Two that differ have one name.
    """
    views: dict[str, tuple[RouteSpec, ForwardingView]] = {}
    for spec in specs:
        route = ForwardedRoute(spec.endpoint, spec.options)
        name = spec.extra.get("name") or view_name(route)
        first, view = views.setdefault(name, (spec, ForwardingView(route, name)))
        if (first.endpoint, first.options) != (spec.endpoint, spec.options):
            raise ConfigError(
                f"the forwarded routes {first.pattern!r} and {spec.pattern!r} are both named {name!r}, and differ; "
                "give one of them a 'name'"
            )
        methods = spec.methods if spec.methods is not None else METHODS
        blueprint.add_url_rule(spec.pattern, name, view, methods=methods)


def view_name(route: ForwardedRoute) -> str:
    """Return the name of a view of *route*; Flask allows no dot in it."""
    return "_".join(filter(None, (route.endpoint, route.call_method))).replace(".", "_")


def check_patterns(app: Flask, specs: Iterable[RouteSpec], where: str) -> None:
    """Check that *app* can route the patterns of *specs*.

    Raises:
        ConfigError: One has no leading slash, a converter that the app does not know, or a parameter in braces.
    """
    for spec in specs:
        try:
            refuse_braces(spec.pattern)
            Rule(spec.pattern).bind(Map(converters=app.url_map.converters))
        except (LookupError, ValueError) as error:
            raise ConfigError(f"{where}[{spec.pattern!r}]: {error}") from error


def register_routes(app: Flask, routes: Iterable[RouteSpec], ahead: Iterable[RouteSpec]) -> None:
    """Add *routes* and *ahead* to *app*, the latter before its own routing.

    Raises:
        ConfigError: As `add_routes`.
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
    """Routes a request to one of some rules of an app before the app's own routing counts."""

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
        # A signal, for it comes before every hook and before the blueprint whose hooks run is chosen.
        request_started.connect(self.route, app)

    def route(self, sender: Any, **_: Any) -> None:
        """Let the current request be for one of the rules if it matches."""
        # Another error of the routing, such as that of a host that is not trusted, stays.
        if not isinstance(request.routing_exception, NotFound | MethodNotAllowed | RequestRedirect | None):
            return
        try:
            number, view_args = self._adapter.match(request.path, request.method)
        except HTTPException:
            return
        request.url_rule, request.view_args, request.routing_exception = self._rules[number], dict(view_args), None
