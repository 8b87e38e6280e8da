"""One HTTP route of an endpoint."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the routing table.

    Attributes:
        endpoint: Name of the endpoint that answers.
        path: Path in Starlette's syntax; of a mount the prefix.
        methods: Upper-case methods, as they are shown. HEAD is not stored, and a mount takes every method.
        mount: The endpoint answers the prefix itself and all below it.
    """

    endpoint: str
    path: str
    methods: frozenset[str]
    mount: bool = False

    def root_path(self, path: str) -> str:
        """Return the part of *path* that this mount's prefix matched; "" for a mount at "/"."""
        return "/".join(path.split("/")[: self.path.rstrip("/").count("/") + 1])
