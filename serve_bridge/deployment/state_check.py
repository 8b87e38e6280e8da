"""The check of a state before it is applied: names, options, routes and traffic, as for arguments from Python.

Rule 1: it needs no instance. A fault is found before the first change.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import UNSET

from serve_bridge.config.actor_options import check_ray_actor_options
from serve_bridge.config.backend_config import BackendConfig, check_room
from serve_bridge.config.checks import optional, seconds
from serve_bridge.config.names import check_name
from serve_bridge.errors import ConfigError
from serve_bridge.http.methods import ANY_METHOD, checked_methods
from serve_bridge.http.path_params import check_route
from serve_bridge.printable import shown
from serve_bridge.state.records import BackendRecord, EndpointRecord, StateRecord
from serve_bridge.traffic import TrafficPolicy

_check_timeout: Final = optional(seconds())
_DIGEST: Final = re.compile("[0-9a-f]{64}")


def check_state(state: StateRecord) -> None:
    """Check *state*.

    Raises:
        ConfigError: It has a fault. The message names the backend or the endpoint.
    """
    for name, backend in state.backends.items():
        try:
            _check_backend(name, backend)
        except (TypeError, ConfigError) as error:
            raise ConfigError(f"backend {shown(name)}: {error}") from None
    routes: dict[str, str] = {}
    for name, endpoint in state.endpoints.items():
        try:
            _check_endpoint(name, endpoint)
            for backend_name in (*endpoint.traffic, *endpoint.shadows):
                if backend_name not in state.backends:
                    raise ConfigError(f"its traffic names backend {shown(backend_name)}, which is not in the state")
            if endpoint.route is not None and routes.setdefault(endpoint.route, name) != name:
                raise ConfigError(f"its route is that of endpoint {shown(routes[endpoint.route])} too")
        except (TypeError, ConfigError) as error:
            raise ConfigError(f"endpoint {shown(name)}: {error}") from None


def _check_backend(name: str, backend: BackendRecord) -> None:
    check_name("backend", name)
    config = BackendConfig(**backend.options)
    check_room(config.max_surge, config.max_unavailable)
    if backend.ray_actor_options.value is not UNSET:
        check_ray_actor_options(backend.ray_actor_options.value)
    for digest in backend.blobs:
        if not _DIGEST.fullmatch(digest):
            raise ConfigError(f"its code or a value of it must be named by a SHA-256, got {shown(digest)}")


def _check_endpoint(name: str, endpoint: EndpointRecord) -> None:
    check_name("endpoint", name)
    is_mount = endpoint.methods == ANY_METHOD
    if endpoint.route is not None:
        check_route(endpoint.route, mount=is_mount)
    if not is_mount and (known := checked_methods(endpoint.methods)) != endpoint.methods:
        raise ConfigError(f"its methods must be {shown(list(known))}, got {shown(list(endpoint.methods))}")
    _check_timeout("timeout_s", endpoint.timeout_s)
    TrafficPolicy(endpoint.traffic, endpoint.shadows)
