"""Any ASGI framework: an application that answers forwarded routes, and a middleware for your own application."""

from serve_bridge.adapters.asgi.application import ADAPTER, ServeBridge, ServeBridgeMiddleware

__all__ = ["ADAPTER", "ServeBridge", "ServeBridgeMiddleware"]
