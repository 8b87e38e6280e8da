"""A client for an instance, and handles for its endpoints. Runs in callers; knows no framework."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serve_bridge.client.client import Client

__all__ = ["Client"]


def __getattr__(name: str) -> Any:
    """Load `Client` on first use, since importing `serve_bridge.client.handle` must not load all of management."""
    if name != "Client":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from serve_bridge.client.client import Client

    return Client
