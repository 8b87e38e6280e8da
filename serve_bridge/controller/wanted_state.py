"""The wanted state: the backends, endpoints and traffic of users, and the resulting routing table.

Rule 1: pure. A change is checked completely, then applied completely. A refused change leaves everything as it was.
Rule 2: checks without state are made in the caller. The checks here depend on other backends and endpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from serve_bridge.errors import BackendNotFound, ConfigError, EndpointNotFound
from serve_bridge.http.methods import ANY_METHOD
from serve_bridge.http.path_params import check_route
from serve_bridge.routing_table import BackendRoute, EndpointRoute, RoutingTable
from serve_bridge.specs import BackendSpec, DeclaredEndpoint, EndpointSpec, UnfinishedDeployment
from serve_bridge.traffic import TrafficPolicy
from serve_bridge.wire.address import SocketAddress


@dataclass
class WantedState:
    """The wish of all users.

    Attributes:
        backends: By name.
        endpoints: By name, in the order of their creation.
        unfinished: Incomplete deployments, by project.
    """

    backends: dict[str, BackendSpec] = field(default_factory=dict)
    endpoints: dict[str, EndpointSpec] = field(default_factory=dict)
    unfinished: dict[str, UnfinishedDeployment] = field(default_factory=dict)

    def copy(self) -> WantedState:
        """Return an independent copy."""
        return WantedState(dict(self.backends), dict(self.endpoints), dict(self.unfinished))

    def backend(self, name: str) -> BackendSpec:
        """Return backend *name*.

        Raises:
            BackendNotFound: It does not exist.
        """
        if name not in self.backends:
            raise BackendNotFound(name, tuple(self.backends))
        return self.backends[name]

    def check_free(self, name: str) -> None:
        """Check the name of a new backend.

        Raises:
            ConfigError: A backend has it already.
        """
        if name in self.backends:
            raise ConfigError(f"backend {name!r} exists already; update_backend changes its code")

    def endpoint(self, name: str) -> EndpointSpec:
        """Return endpoint *name*.

        Raises:
            EndpointNotFound: It does not exist.
        """
        if name not in self.endpoints:
            raise EndpointNotFound(name, tuple(self.endpoints))
        return self.endpoints[name]

    def delete_backend(self, name: str, *, force: bool) -> BackendSpec | None:
        """Take *name* away and return it; None if it is unknown.

        Raises:
            ConfigError: A traffic policy names it. With *force* a shadow is simply removed; a split refuses.
        """
        using = [e for e in self.endpoints.values() if name in e.policy.weights]
        shadowing = [e for e in self.endpoints.values() if name in e.policy.shadows]
        if using or (shadowing and not force):
            names = ", ".join(sorted({e.name for e in (*using, *shadowing)}))
            raise ConfigError(
                f"backend {name!r} still gets traffic of: {names}; change their traffic or delete them first"
            )
        for endpoint in shadowing:
            self.endpoints[endpoint.name] = replace(endpoint, policy=endpoint.policy.with_shadow(name, 0))
        return self.backends.pop(name, None)

    def create_endpoint(
        self,
        name: str,
        backend: str,
        route: str | None,
        methods: tuple[str, ...] | None,
        timeout_s: float | None = None,
    ) -> None:
        """Add an endpoint with all its traffic to *backend*.

        Without *methods*, it has GET, or every method if the backend is an application.

        Raises:
            BackendNotFound: There is no such backend.
            ConfigError: The name or the route is taken, or *methods* are given for an application.
            ValueError: The route cannot be the prefix of an application.
        """
        mount = self.backend(backend).is_application
        if methods is None:
            methods = ANY_METHOD if mount else ("GET",)
        self._check_kind(name, route, methods, (backend,))
        if name in self.endpoints:
            raise ConfigError(f"endpoint {name!r} exists already; delete it first or use another name")
        for other in self.endpoints.values():
            if route is not None and other.route == route:
                raise ConfigError(f"route {route!r} belongs to endpoint {other.name!r} already")
        self.endpoints[name] = EndpointSpec(
            name, route, methods, TrafficPolicy.split({backend: 1.0}), timeout_s=timeout_s
        )

    def declare_endpoints(self, declared: Iterable[DeclaredEndpoint], withdrawn: Iterable[str]) -> None:
        """Delete the *withdrawn* endpoints, and create or change the *declared* ones.

        An existing endpoint keeps its traffic unless its declaration has traffic. All endpoints change at once, so they
        may exchange their routes.

        Raises:
            BackendNotFound: A backend of the traffic does not exist.
            ConfigError: Two endpoints would have one route, or an endpoint would mix applications with other code.
            ValueError: A route cannot be the prefix of an application.
        """
        gone = set(withdrawn)
        endpoints = {name: endpoint for name, endpoint in self.endpoints.items() if name not in gone}
        for each in declared:
            old = endpoints.get(each.name)
            policy = each.policy_after(old.policy if old is not None else None)
            self._check_kind(each.name, each.route, each.methods, (*policy.weights, *policy.shadows))
            endpoints[each.name] = EndpointSpec(
                each.name, each.route, each.methods, policy, each.origin, each.timeout_s
            )
        owners: dict[str, str] = {}
        for endpoint in endpoints.values():
            if endpoint.route is not None:
                owner = owners.setdefault(endpoint.route, endpoint.name)
                if owner != endpoint.name:
                    raise ConfigError(f"route {endpoint.route!r} belongs to endpoint {owner!r} already")
        self.endpoints = endpoints

    def set_traffic(self, name: str, weights: Mapping[str, float]) -> None:
        """Replace the weights of an endpoint. Its shadows stay.

        Raises:
            EndpointNotFound, BackendNotFound: The endpoint or a backend is unknown.
            ConfigError: The weights are bad, or the endpoint would mix applications with other code.
        """
        endpoint = self.endpoint(name)
        policy = endpoint.policy.with_weights(weights)
        self._check_kind(name, endpoint.route, endpoint.methods, policy.weights)
        self.endpoints[name] = replace(endpoint, policy=policy)

    def shadow_traffic(self, name: str, backend: str, proportion: float) -> None:
        """Send copies of a share of the requests of an endpoint to *backend*; 0 ends this.

        Raises:
            EndpointNotFound, BackendNotFound: The endpoint or a backend is unknown.
            TypeError: *proportion* is not a number from 0 to 1.
            ConfigError: As `set_traffic`.
        """
        endpoint = self.endpoint(name)
        policy = endpoint.policy.with_shadow(backend, proportion)
        self._check_kind(name, endpoint.route, endpoint.methods, (backend,))
        self.endpoints[name] = replace(endpoint, policy=policy)

    def _check_kind(self, name: str, route: str | None, methods: tuple[str, ...], backends: Iterable[str]) -> None:
        """Check the *backends* of endpoint *name*: all must be applications, or all other code, as its methods say."""
        mount = methods == ANY_METHOD
        for backend in backends:
            if self.backend(backend).is_application == mount:
                continue
            if mount:
                raise ConfigError(
                    f"endpoint {name!r} is for applications, and backend {backend!r} is not an application; "
                    "create another endpoint for it"
                )
            raise ConfigError(
                f"backend {backend!r} is an application, which has methods of its own, and endpoint {name!r} has "
                f"{', '.join(methods)}; create an endpoint for it without methods"
            )
        if mount and route is not None:
            check_route(route, mount=True)

    def describe_endpoints(self) -> dict[str, dict[str, Any]]:
        """Return the endpoints as `list_endpoints` shows them."""
        return {
            endpoint.name: {
                "route": endpoint.route,
                "methods": list(endpoint.methods),
                "timeout_s": endpoint.timeout_s,
                "traffic": dict(endpoint.policy.weights),
                "shadows": dict(endpoint.policy.shadows),
            }
            for endpoint in self.endpoints.values()
        }

    def table(self, generation: str, version: int, replicas: Mapping[str, tuple[SocketAddress, ...]]) -> RoutingTable:
        """Return the routing table for this state and the addresses of the ready *replicas*, by backend."""
        return RoutingTable(
            generation,
            version,
            {name: _backend_route(backend, replicas.get(name, ())) for name, backend in self.backends.items()},
            {
                name: EndpointRoute(
                    e.route, e.methods, dict(e.policy.weights), dict(e.policy.shadows), e.timeout_s, e.mount
                )
                for name, e in self.endpoints.items()
            },
        )


def _backend_route(backend: BackendSpec, replicas: tuple[SocketAddress, ...]) -> BackendRoute:
    config = backend.resolved
    return BackendRoute(replicas, config.max_concurrent_queries or 1, config.max_queued_queries)
