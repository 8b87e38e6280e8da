"""Any ASGI framework: an application that answers forwarded routes, and a middleware that does so ahead of another."""

from serve_bridge.adapters.asgi.application import ADAPTER, ServeBridge, ServeBridgeMiddleware

__all__ = ["ADAPTER", "ServeBridge", "ServeBridgeMiddleware"]
