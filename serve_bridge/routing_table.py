"""The routing table: the numbered snapshot for all routers, and its encoding.

Rule 1: a table is frozen, so any thread may read it. Each change makes a new table with the next version.
"""

from __future__ import annotations

from typing import Final

import msgspec

from serve_bridge.errors import ProtocolError
from serve_bridge.http.route import Route
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.heads import decoder


class BackendRoute(msgspec.Struct, frozen=True, array_like=True):
    """The part of the table about one backend.

    Attributes:
        replicas: Addresses of the replicas.
        max_concurrent_queries: Upper limit for the running requests of one replica.
        max_queued_queries: Upper limit for the waiting requests in one calling process.
    """

    replicas: tuple[SocketAddress, ...]
    max_concurrent_queries: int
    max_queued_queries: int


class EndpointRoute(msgspec.Struct, frozen=True, array_like=True):
    """The part of the table about one endpoint.

    Attributes:
        path: HTTP route; None if the endpoint has no route.
        methods: HTTP methods of the route.
        weights: Weight of each backend.
        shadows: Share of each backend that gets copies of requests.
        timeout_s: Timeout of requests in seconds, for all callers; None: the caller's own timeout.
        mount: Whether the endpoint serves an application. Then the path is a prefix, and all methods are allowed.
    """

    path: str | None
    methods: tuple[str, ...]
    weights: dict[str, float]
    shadows: dict[str, float]
    timeout_s: float | None = None
    mount: bool = False


class RoutingTable(msgspec.Struct, frozen=True, array_like=True):
    """One snapshot.

    Attributes:
        generation: Generation of the instance. Versions of two generations must not be compared.
        version: Number of the snapshot. Each change increases it.
        backends: Backends by name.
        endpoints: Endpoints by name, in the order of their creation.
        proxies: Addresses of the proxies. Other processes ask a proxy there for the address of the controller.
        restoring: Names of the backends of a former instance whose replicas have not been started yet.
    """

    generation: str
    version: int
    backends: dict[str, BackendRoute]
    endpoints: dict[str, EndpointRoute]
    proxies: tuple[SocketAddress, ...] = ()
    restoring: tuple[str, ...] = ()

    def http_routes(self) -> tuple[Route, ...]:
        """Return the HTTP routes, in the order of their creation."""
        return tuple(
            Route(name, endpoint.path, frozenset(endpoint.methods), endpoint.mount)
            for name, endpoint in self.endpoints.items()
            if endpoint.path is not None
        )

    def listeners(self) -> list[SocketAddress]:
        """Return the addresses of all proxies and replicas."""
        return [*self.proxies, *(replica for backend in self.backends.values() for replica in backend.replicas)]


VERSION_BYTES: Final = 8
"""Length in bytes of a version in an acknowledgement."""
decode_table: Final = decoder(RoutingTable)


def encode_version(version: int) -> bytes:
    """Return *version* as bytes, for an acknowledgement by a subscriber."""
    return version.to_bytes(VERSION_BYTES, "little")


def decode_version(data: bytes) -> int:
    """Return the version in *data*, which `encode_version` has made.

    Raises:
        ProtocolError: *data* does not have `VERSION_BYTES` bytes.
    """
    if len(data) != VERSION_BYTES:
        raise ProtocolError(f"a version has {VERSION_BYTES} bytes, got {len(data)}")
    return int.from_bytes(data, "little")
