"""serve_bridge: forward routes and calls of a web app to backends that scale over a Ray cluster.

::

    import serve_bridge as serve

    serve.start()
    serve.create_backend("greeter", lambda request: f"Hello, {request.query_params['name']}!")
    serve.create_endpoint("greeter", backend="greeter", route="/greet")

Users import adapters themselves (`serve_bridge.adapters.flask`); nothing here does, nor imports Ray.
"""

import logging
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from serve_bridge.context import ReplicaContext, RequestIdFilter, get_replica_context, request_id, time_left
from serve_bridge.errors import (
    AuthenticationError,
    BackendError,
    BackendNotFound,
    BackendOverloaded,
    BackendStartError,
    ConfigError,
    ControlPlaneLost,
    DeadlineExceeded,
    DeploymentError,
    EndpointNotFound,
    InstanceClosed,
    MethodNotExposed,
    NotAllowed,
    NotConnected,
    ProtocolError,
    ReplicaDied,
    SerializationError,
    ServeBridgeError,
)
from serve_bridge.printable import make_logs_printable

if TYPE_CHECKING:
    from serve_bridge.api import (
        connect,
        create_backend,
        create_endpoint,
        delete_backend,
        delete_endpoint,
        deploy,
        get_backend_config,
        get_handle,
        handle,
        list_backends,
        list_endpoints,
        set_traffic,
        shadow_traffic,
        shutdown,
        start,
        status,
        update_backend,
        update_backend_config,
    )
    from serve_bridge.client.client import Client
    from serve_bridge.client.handle import AsyncHandle, Handle
    from serve_bridge.config.backend_config import BackendConfig
    from serve_bridge.config.http_options import HTTPOptions, Location
    from serve_bridge.deployment.declaration import backend
    from serve_bridge.deployment.endpoint_declaration import endpoint
    from serve_bridge.deployment.result import Deployment
    from serve_bridge.request.serve_request import ServeRequest
    from serve_bridge.user_code.application import asgi_app, wsgi_app
    from serve_bridge.user_code.batch_decorator import batch
    from serve_bridge.user_code.batch_marks import accept_batch

__version__ = "0.2.0"

__all__ = [
    "AsyncHandle",
    "AuthenticationError",
    "BackendConfig",
    "BackendError",
    "BackendNotFound",
    "BackendOverloaded",
    "BackendStartError",
    "Client",
    "ConfigError",
    "ControlPlaneLost",
    "DeadlineExceeded",
    "Deployment",
    "DeploymentError",
    "EndpointNotFound",
    "HTTPOptions",
    "Handle",
    "InstanceClosed",
    "Location",
    "MethodNotExposed",
    "NotAllowed",
    "NotConnected",
    "ProtocolError",
    "ReplicaContext",
    "ReplicaDied",
    "RequestIdFilter",
    "SerializationError",
    "ServeBridgeError",
    "ServeRequest",
    "accept_batch",
    "asgi_app",
    "backend",
    "batch",
    "connect",
    "create_backend",
    "create_endpoint",
    "delete_backend",
    "delete_endpoint",
    "deploy",
    "endpoint",
    "get_backend_config",
    "get_handle",
    "get_replica_context",
    "handle",
    "list_backends",
    "list_endpoints",
    "request_id",
    "set_traffic",
    "shadow_traffic",
    "shutdown",
    "start",
    "status",
    "time_left",
    "update_backend",
    "update_backend_config",
    "wsgi_app",
]

logging.getLogger("serve_bridge").addHandler(logging.NullHandler())
make_logs_printable()


_LATE = {
    "AsyncHandle": "serve_bridge.client.handle",
    "BackendConfig": "serve_bridge.config.backend_config",
    "Client": "serve_bridge.client.client",
    "Deployment": "serve_bridge.deployment.result",
    "HTTPOptions": "serve_bridge.config.http_options",
    "Handle": "serve_bridge.client.handle",
    "Location": "serve_bridge.config.http_options",
    "ServeRequest": "serve_bridge.request",
    "asgi_app": "serve_bridge.user_code.application",
    "accept_batch": "serve_bridge.user_code.batch_marks",
    "backend": "serve_bridge.deployment.declaration",
    "batch": "serve_bridge.user_code.batch_decorator",
    "endpoint": "serve_bridge.deployment.endpoint_declaration",
    "wsgi_app": "serve_bridge.user_code.application",
}
"""Loaded on first use (PEP 562), as is `api`, where the functions are: no process has a use for all of them, and the
engine's own for few."""


_RAY_SERVE_2 = {
    "Application": "Ray Serve 2's Application is a function or class with @serve.backend here",
    "delete": "Ray Serve 2's `delete` is `delete_endpoint` and `delete_backend` here",
    "deployment": "Ray Serve 2's `@serve.deployment` is `@serve.backend` here",
    "get_app_handle": "Ray Serve 2's `get_app_handle` is `get_handle` here",
    "get_deployment_handle": "Ray Serve 2's `get_deployment_handle` is `get_handle` here",
    "get_multiplexed_model_id": "multiplexed models do not exist here; pass the model's name in the request",
    "ingress": "Ray Serve 2's `@serve.ingress(app)` is `asgi_app(app)` here, a backend by itself",
    "multiplexed": "multiplexed models do not exist here; a backend holds the models that it wants",
    "run": "Ray Serve 2's `run` is `deploy` here",
    "start_http_proxy": "Ray Serve's `start_http_proxy` is `start(http_options=...)` here",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        hint = f"; {_RAY_SERVE_2[name]}" if name in _RAY_SERVE_2 else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
    found = globals()[name] = getattr(import_module(_LATE.get(name, "serve_bridge.api")), name)
    return found


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])


class _Package(ModuleType):
    """This package, whose submodules do not take the names of Ray Serve 2 that `__getattr__` explains."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _RAY_SERVE_2 and isinstance(value, ModuleType)):  # imports find it in `sys.modules`
            super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        """Pickle by name, as cloudpickle does with a module: functions of a script hold this package as a global."""
        return import_module, (self.__name__,)


sys.modules[__name__].__class__ = _Package
