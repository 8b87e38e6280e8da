"""The functions of `import serve_bridge as serve`: start, join, fill, ask, change and end an instance. Runs in callers.

Rule 1: `start` and `connect` set the process's current client. The other functions are methods of it.
"""

from serve_bridge.api.handles import get_handle, handle
from serve_bridge.api.lifecycle import connect, deploy, shutdown, start
from serve_bridge.api.operations import (
    create_backend,
    create_endpoint,
    delete_backend,
    delete_endpoint,
    get_backend_config,
    list_backends,
    list_endpoints,
    set_traffic,
    shadow_traffic,
    status,
    update_backend,
    update_backend_config,
)

__all__ = [
    "connect",
    "create_backend",
    "create_endpoint",
    "delete_backend",
    "delete_endpoint",
    "deploy",
    "get_backend_config",
    "get_handle",
    "handle",
    "list_backends",
    "list_endpoints",
    "set_traffic",
    "shadow_traffic",
    "shutdown",
    "start",
    "status",
    "update_backend",
    "update_backend_config",
]
