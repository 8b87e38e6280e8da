"""The routes that an instance itself has, as the patterns of an adapter that is mounted without any of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serve_bridge.adapters.bridge.forwarded_route import RouteSpec
from serve_bridge.adapters.bridge.patterns import Patterns
from serve_bridge.http.route import Route

if TYPE_CHECKING:
    from serve_bridge.routing_table import RoutingTable


class InstanceRoutes:
    """The patterns of the newest routing table; another table costs an index only if its routes differ."""

    def __init__(self) -> None:
        self._routes: tuple[Route, ...] = ()
        self._newest: tuple[RoutingTable | None, Patterns] = None, Patterns(())

    def of(self, table: RoutingTable | None) -> Patterns:
        """Return the patterns of *table*; with None, those of the last one."""
        known, patterns = self._newest  # one attribute: several threads look here
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
