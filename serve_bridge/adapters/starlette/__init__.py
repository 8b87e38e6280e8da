"""Starlette and FastAPI: routes that are answered by endpoints, a mount, a middleware, handles for views."""

from serve_bridge.adapters.starlette.extension import ADAPTER, ServeBridge, ServeBridgeMiddleware, get_handle

__all__ = ["ADAPTER", "ServeBridge", "ServeBridgeMiddleware", "get_handle"]
