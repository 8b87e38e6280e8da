"""What a backend receives: `ServeRequest`, with its JSON bodies and forms."""

from serve_bridge.request.serve_request import ServeRequest

__all__ = ["ServeRequest"]
