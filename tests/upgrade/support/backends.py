"""A backend that shows the version of the package in its replica."""

from __future__ import annotations

from serve_bridge.wire import handshake


def wire_version(request: object) -> int:
    """Return the newest version of the wire that the replica speaks."""
    return handshake.VERSION
