"""The request that user code gets: runs in replicas and callers; knows Starlette, but no process and no connection."""

from serve_bridge.request.serve_request import ServeRequest

__all__ = ["ServeRequest"]
