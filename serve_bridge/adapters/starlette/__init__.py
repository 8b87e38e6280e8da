"""Starlette and FastAPI: forwarded routes, a mount, a middleware, and handles for views."""

from serve_bridge.adapters.starlette.extension import ADAPTER, ServeBridge, ServeBridgeMiddleware, get_handle

__all__ = ["ADAPTER", "ServeBridge", "ServeBridgeMiddleware", "get_handle"]
