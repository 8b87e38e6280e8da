"""One HTTP route of an endpoint."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the routing table.

    Attributes:
        endpoint: Name of the endpoint.
        path: Path in Starlette's syntax; the prefix of a mount.
        methods: Methods in upper case, without HEAD. A mount takes all methods.
        mount: Whether the endpoint answers the prefix and all paths below it.
    """

    endpoint: str
    path: str
    methods: frozenset[str]
    mount: bool = False

    def root_path(self, path: str) -> str:
        """Return the part of *path* that the prefix of this mount matches; "" for a mount at "/"."""
        return "/".join(path.split("/")[: self.path.rstrip("/").count("/") + 1])
