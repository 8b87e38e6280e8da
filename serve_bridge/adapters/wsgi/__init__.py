"""Any WSGI framework: an application that answers forwarded routes, and a middleware for your own application."""

from serve_bridge.adapters.wsgi.application import (
    ADAPTER,
    ServeBridge,
    ServeBridgeMiddleware,
    headers_of,
    peer_of,
    scope_of,
    server_of,
)
from serve_bridge.adapters.wsgi.forwarding import WebRequest

__all__ = [
    "ADAPTER",
    "ServeBridge",
    "ServeBridgeMiddleware",
    "WebRequest",
    "headers_of",
    "peer_of",
    "scope_of",
    "server_of",
]
