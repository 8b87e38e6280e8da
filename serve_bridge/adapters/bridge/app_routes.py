"""The routes that an application answers, and its answer to a request that none of them takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serve_bridge.adapters.bridge.outcome import Outcome
from serve_bridge.adapters.bridge.patterns import Match, Patterns
from serve_bridge.adapters.bridge.route_spec import RouteSpec
from serve_bridge.http.answers import problem
from serve_bridge.http.route import Route

if TYPE_CHECKING:
    from serve_bridge.routing_table import RoutingTable


class AppRoutes:
    """The routes of one application.

    Attributes:
        own: The routes that the application was given; None if it answers every route of its instance.
    """

    def __init__(self, own: Patterns | None) -> None:
        self.own = own
        self._of_instance = InstanceRoutes()

    def find(self, path: str, method: str, table: RoutingTable | None) -> Match | Outcome:
        """Return the route of *path*, or the answer 404 or 405.

        Args:
            path: The decoded path below the mount.
            method: The HTTP method.
            table: The routing table of the instance. An application with routes of its own does not need it.
        """
        found = (self.own or self._of_instance.of(table)).match(path)
        if found is None:
            return Outcome.of(problem(404, "Not Found", f"no route matches {path[:200]!r}"))
        if found.takes(method):
            return found
        allowed = ", ".join(sorted(found.methods or ()))
        answer = problem(405, "Method Not Allowed", f"allowed: {allowed}")
        answer.headers.append((b"allow", allowed.encode()))
        return Outcome.of(answer)


class InstanceRoutes:
    """The routes of an instance as patterns. They are made again only when a routing table has other routes."""

    def __init__(self) -> None:
        self._routes: tuple[Route, ...] = ()
        self._newest: tuple[RoutingTable | None, Patterns] = None, Patterns(())

    def of(self, table: RoutingTable | None) -> Patterns:
        """Return the patterns of *table*; if it is None, those of the last table."""
        known, patterns = self._newest  # in one attribute, so that threads see both or neither change
        if table is None or table is known:
            return patterns
        routes = table.http_routes()
        if routes != self._routes:
            patterns = Patterns(_spec_of(each) for each in routes)
            self._routes = routes
        self._newest = table, patterns
        return patterns


def _spec_of(route: Route) -> RouteSpec:
    methods = None if route.mount else tuple(route.methods)
    return RouteSpec(route.path, route.endpoint, methods, mount=route.mount)
