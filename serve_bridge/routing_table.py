"""The routing table: the numbered snapshot which every router reads, and its encoding.

Rule 1: a table is frozen, so any thread may read it. A change makes a table with the next version.
"""

from __future__ import annotations

from typing import Final

import msgspec

from serve_bridge.errors import ProtocolError
from serve_bridge.http.route import Route
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.heads import decoder


class BackendRoute(msgspec.Struct, frozen=True, array_like=True):
    """What routers know of one backend."""

    replicas: tuple[SocketAddress, ...]
    max_concurrent_queries: int
    max_queued_queries: int


class EndpointRoute(msgspec.Struct, frozen=True, array_like=True):
    """What routers know of one endpoint.

    Attributes:
        path: Its HTTP route; None: no route leads to it.
        methods: HTTP methods of the route.
        weights, shadows: Its traffic, by backend.
        timeout_s: Seconds that a request to it may take, whoever sends it; None: as the sender has it.
        mount: Whether it is over an application: the path is a prefix, and every method leads there.
    """

    path: str | None
    methods: tuple[str, ...]
    weights: dict[str, float]
    shadows: dict[str, float]
    timeout_s: float | None = None
    mount: bool = False


class RoutingTable(msgspec.Struct, frozen=True, array_like=True):
    """The numbered snapshot all routers read; endpoints are in the order of their creation.

    Attributes:
        generation: The instance this table belongs to; versions compare only within one.
        version: Grows with every change.
        proxies: Where the proxies listen for questions of where the controller is.
    """

    generation: str
    version: int
    backends: dict[str, BackendRoute]
    endpoints: dict[str, EndpointRoute]
    proxies: tuple[SocketAddress, ...] = ()

    def http_routes(self) -> tuple[Route, ...]:
        """Return the HTTP routes, in the order of their creation."""
        return tuple(
            Route(name, endpoint.path, frozenset(endpoint.methods), endpoint.mount)
            for name, endpoint in self.endpoints.items()
            if endpoint.path is not None
        )

    def listeners(self) -> list[SocketAddress]:
        """Return where all replicas and proxies listen."""
        return [*self.proxies, *(replica for backend in self.backends.values() for replica in backend.replicas)]


VERSION_BYTES: Final = 8
"""Length in bytes of a version, as a subscriber acknowledges it."""
decode_table: Final = decoder(RoutingTable)


def encode_version(version: int) -> bytes:
    """Return *version* as a subscriber acknowledges it."""
    return version.to_bytes(VERSION_BYTES, "little")


def decode_version(data: bytes) -> int:
    """Return the version that `encode_version` made *data* from.

    Raises:
        ProtocolError: *data* does not have `VERSION_BYTES` bytes.
    """
    if len(data) != VERSION_BYTES:
        raise ProtocolError(f"a version has {VERSION_BYTES} bytes, got {len(data)}")
    return int.from_bytes(data, "little")
