"""A request as a router sees it, and what the router returns for it."""

from __future__ import annotations

from typing import Protocol, TypeAlias

from serve_bridge.wire.caller_end import CallerStream, Upload
from serve_bridge.wire.frames import Frame, Kind

Routed: TypeAlias = tuple[CallerStream, Frame]
"""The stream of a sent request, and the RESPONSE frame with the head of its answer."""


class OutgoingRequest(Protocol):
    """A request on its way to a backend.

    Attributes:
        endpoint: Name of the endpoint.
        kind: REQUEST for HTTP, CALL for Python.
        shard_key: Decides the backend; None: *draw* decides it.
        limit_s: Time limit of the whole request in seconds, as its sender gave it; for error texts.
        timeout_s: Remaining seconds for the whole request. The router lowers them to the limit of the endpoint.
        idempotent: Whether the request may run twice without harm.
        draw: Number in [0, 1) that decides the backend without a shard key. It is drawn once, with the request. A
            second draw after a full backend would move traffic to the other backends.
        retried: Whether the request was sent before the router got it, and may have run. It is not sent a third time.
        body: The body after the head: segments can be sent again, an iterator cannot. None: nothing follows the head.
    """

    timeout_s: float
    retried: bool

    @property
    def endpoint(self) -> str: ...  # noqa: D102 - see above, and so below
    @property
    def kind(self) -> Kind: ...  # noqa: D102
    @property
    def limit_s(self) -> float: ...  # noqa: D102
    @property
    def shard_key(self) -> str | None: ...  # noqa: D102
    @property
    def draw(self) -> float: ...  # noqa: D102
    @property
    def idempotent(self) -> bool: ...  # noqa: D102
    @property
    def body(self) -> Upload | None: ...  # noqa: D102

    def encode(self, backend: str, version: int, timeout_s: float) -> bytes:
        """Return the head for *backend*, by the routing table of *version*, with *timeout_s* left."""
        ...
