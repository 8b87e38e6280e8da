"""The operations of an instance for users: its backends, its endpoints and their traffic.

Rule 1: every check without state is made here, in the caller. If a check fails, nothing has been sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.config.checks import optional, seconds
from serve_bridge.config.names import check_name
from serve_bridge.errors import BackendNotFound
from serve_bridge.http.methods import checked_methods
from serve_bridge.http.path_params import check_route
from serve_bridge.instance.instance_status import InstanceStatus
from serve_bridge.instance.operations import Operation
from serve_bridge.management import time_limits
from serve_bridge.management.arguments import checked_backend, existing_name
from serve_bridge.management.operator import OPERATION_S, Operator
from serve_bridge.printable import shown
from serve_bridge.specs import BackendUpdate, opened_config, packed_config
from serve_bridge.traffic import TrafficPolicy
from serve_bridge.user_code.application import Application

_check_timeout: Final = optional(seconds())


class Management:
    """The operations of one instance."""

    def __init__(self, operator: Any, /) -> None:
        """Use *operator* to reach the controller."""
        self._operator: Operator = operator

    @property
    def http_urls(self) -> list[str]:
        """Base URLs of the instance's proxies."""
        urls: list[str] = self.status()["http_urls"]
        return urls

    def status(self) -> dict[str, Any]:
        """Return the status: nodes, proxies, backends, the states of replicas, endpoints and incomplete deployments."""
        status: InstanceStatus = self._operator.operate(Operation.STATUS)
        return status.as_dict()

    # backends

    def create_backend(
        self,
        name: str,
        func_or_class: Any,
        *init_args: Any,
        config: BackendConfig | Mapping[str, Any] | None = None,
        ray_actor_options: dict[str, Any] | None = None,
        **init_kwargs: Any,
    ) -> None:
        """Start a backend, and return when its replicas are ready.

        Args:
            name: Its name, for endpoints.
            func_or_class: A function, a class, an import path "package.module:Attr", or an application from
                `asgi_app` or `wsgi_app`.
            init_args: Arguments of the class's constructor.
            config: Its options.
            ray_actor_options: Resources and environment of its actors, as for Ray's `actor.options(...)`.
            init_kwargs: Keyword arguments of the constructor.

        Raises:
            TypeError, ConfigError, SerializationError: An argument is bad; nothing was started.
            BackendStartError: It cannot start; nothing of it is left, and the name is free.
        """
        backend = checked_backend(name, func_or_class, init_args, init_kwargs, config, ray_actor_options)
        self._operator.operate(Operation.CREATE_BACKEND, backend, timeout_s=time_limits.to_create(backend.config))

    def update_backend(
        self,
        name: str,
        func_or_class: Any,
        *init_args: Any,
        config: BackendConfig | Mapping[str, Any] | None = None,
        ray_actor_options: dict[str, Any] | None = None,
        **init_kwargs: Any,
    ) -> None:
        """Replace the code of a backend by a rolling update: new replicas are ready before old ones drain.

        Raises:
            BackendNotFound: The backend does not exist.
            TypeError, ConfigError, SerializationError: An argument is bad, or an application would become other code
                or the other way round; nothing has changed.
            BackendStartError: The new code cannot start; the old code still serves.
        """
        old = self._config(name)
        base = None if isinstance(func_or_class, Application) else old  # its kind is checked before its options
        new = checked_backend(name, func_or_class, init_args, init_kwargs, config, ray_actor_options, base=base)
        self._operator.operate(
            Operation.UPDATE_BACKEND,
            BackendUpdate(
                name=name,
                code=new.code,
                is_async=new.is_async,
                is_application=new.is_application,
                config=new.config if config is not None else None,
                actor_options=new.actor_options if ray_actor_options is not None else None,
            ),
            timeout_s=time_limits.to_update(old.merged(new.config)),
        )

    def update_backend_config(self, name: str, config: BackendConfig | Mapping[str, Any]) -> None:
        """Change the options in *config*, and return when they are in force. The replicas keep running.

        Raises:
            BackendNotFound: The backend does not exist.
            TypeError, ConfigError: An option is bad; nothing has changed.
            BackendStartError: More replicas cannot start; nothing has changed.
            ReplicaDied: A replica ended in `reconfigure`; the old value stays in force.
            Exception: The error of the backend's `reconfigure`; the old value stays in force.
        """
        if config is None:
            raise TypeError("config must be a BackendConfig or a dict, got None")
        new = self._config(name).merged(config)
        self._operator.operate(
            Operation.UPDATE_BACKEND_CONFIG,
            name,
            packed_config(BackendConfig.of(config)),
            timeout_s=time_limits.to_configure(new),
        )

    def get_backend_config(self, name: str) -> BackendConfig:
        """Return the options of a backend, with the defaults filled in.

        Raises:
            BackendNotFound: The backend does not exist.
        """
        return self._config(name)

    def list_backends(self) -> dict[str, BackendConfig]:
        """Return the options of every backend, with the defaults filled in, by name."""
        return {name: opened_config(config) for name, config in self._operator.operate(Operation.LIST_BACKENDS).items()}

    def delete_backend(self, name: str, force: bool = False) -> None:
        """Stop a backend. An unknown name is no error.

        Args:
            name: The name of the backend.
            force: End its replicas at once, without their grace time, so running requests fail. Also remove the backend
                from shadows. A backend with traffic is refused in any case.

        Raises:
            ConfigError: The backend gets traffic, or copies of requests without *force*; nothing has changed.
        """
        config = self.list_backends().get(existing_name("backend", name))
        timeout_s = OPERATION_S if config is None else time_limits.to_delete(config)
        self._operator.operate(Operation.DELETE_BACKEND, name, bool(force), timeout_s=timeout_s)

    def _config(self, name: str) -> BackendConfig:
        configs = self.list_backends()
        if existing_name("backend", name) not in configs:
            raise BackendNotFound(name, tuple(configs))
        return configs[name]

    # endpoints

    def create_endpoint(
        self,
        name: str,
        *,
        backend: str,
        route: str | None = None,
        methods: Iterable[str] | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Create an endpoint for *backend*, and return when every proxy routes it.

        Args:
            name: Its name, for handles.
            backend: The backend of its traffic, until `set_traffic`.
            route: A Starlette path such as "/api/{user_id:int}"; None: only Python callers reach it. For an application
                it is a prefix: "/site" matches "/site" and all paths below it, "/" all paths without another route.
            methods: HTTP methods; GET includes HEAD. None: GET, or all methods for an application.
            timeout_s: Upper limit for each request, in seconds. A shorter limit of the caller applies instead. None:
                only the caller's limit applies.

        Raises:
            TypeError: *backend* is not a str, *route* is not a str with a leading "/", or *methods* is a str.
            BackendNotFound: The backend does not exist.
            ConfigError, ValueError: The name or the route is taken or malformed, *timeout_s* is out of range, or an
                application is given *methods*.
        """
        check_name("endpoint", name)
        if not isinstance(backend, str):
            raise TypeError(f"create_endpoint needs backend=<name of a backend>, got {shown(backend)}")
        if route is not None:
            check_route(route)
        checked = _check_timeout("timeout_s", timeout_s)
        listed = None if methods is None else checked_methods(methods)
        self._operator.operate(Operation.CREATE_ENDPOINT, name, backend, route, listed, checked)

    def delete_endpoint(self, name: str) -> None:
        """Delete an endpoint. An unknown name is no error. Old handles then raise `EndpointNotFound`."""
        self._operator.operate(Operation.DELETE_ENDPOINT, existing_name("endpoint", name))

    def list_endpoints(self) -> dict[str, dict[str, Any]]:
        """Return `{name: {"route", "methods", "timeout_s", "traffic", "shadows"}}`; an unset value is None."""
        endpoints: dict[str, dict[str, Any]] = self._operator.operate(Operation.LIST_ENDPOINTS)
        return endpoints

    def set_traffic(self, endpoint: str, traffic: Mapping[str, float]) -> None:
        """Replace the weights of an endpoint in one step. Its shadows stay.

        Args:
            endpoint: The name of the endpoint.
            traffic: Weight of each backend, at least 0. The weights sum to 1 within 1e-5.

        Raises:
            EndpointNotFound, BackendNotFound: The endpoint or a backend does not exist; nothing has changed.
            ConfigError: The weights are bad, or the endpoint would mix applications with other code; nothing has
                changed.
        """
        TrafficPolicy.split(traffic)
        self._operator.operate(Operation.SET_TRAFFIC, existing_name("endpoint", endpoint), dict(traffic))

    def shadow_traffic(self, endpoint: str, backend: str, proportion: float) -> None:
        """Send copies of a share of the requests of an endpoint to *backend*; 0 ends this.

        Raises:
            EndpointNotFound, BackendNotFound: The endpoint or the backend does not exist.
            TypeError: *proportion* is not a number from 0 to 1.
            ConfigError: The endpoint would mix applications with other code.
        """
        TrafficPolicy.split({"-": 1.0}).with_shadow(str(backend), proportion)
        self._operator.operate(
            Operation.SHADOW_TRAFFIC, existing_name("endpoint", endpoint), existing_name("backend", backend), proportion
        )
