"""What is changed and asked of an instance: its backends, endpoints and their traffic.

Rule 1: every check that needs no state is made here, in the caller: nothing was sent when one fails.
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
from serve_bridge.management.arguments import checked_backend, existing_name
from serve_bridge.management.operator import OPERATION_S, Operator
from serve_bridge.printable import shown
from serve_bridge.specs import BackendUpdate, opened_config, packed_config
from serve_bridge.traffic import TrafficPolicy
from serve_bridge.user_code.application import Application

_check_timeout: Final = optional(seconds())


class Management:
    """The operations of an instance: its backends, its endpoints and their traffic."""

    def __init__(self, operator: Any, /) -> None:
        """Use *operator* to reach the controller."""
        self._operator: Operator = operator

    @property
    def http_urls(self) -> list[str]:
        """Base URLs of the instance's proxies."""
        urls: list[str] = self.status()["http_urls"]
        return urls

    def status(self) -> dict[str, Any]:
        """Return what runs: proxies, backends, replicas and their states."""
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
        """Start a backend; returns when its replicas are ready.

        Args:
            name: How endpoints refer to it.
            func_or_class: A function, a class, an import path "package.module:Attr", or an application as `asgi_app`
                and `wsgi_app` return it.
            init_args: Arguments of the class's constructor.
            config: How it runs.
            ray_actor_options: Resources and environment of its actors, as Ray's `actor.options(...)` takes them.
            init_kwargs: Keyword arguments of the constructor.

        Raises:
            TypeError, ConfigError, SerializationError: An argument is bad; nothing was started.
            BackendStartError: It cannot start; nothing is left and the name is free.
        """
        backend = checked_backend(name, func_or_class, init_args, init_kwargs, config, ray_actor_options)
        self._operator.operate(
            Operation.CREATE_BACKEND, backend, timeout_s=backend.config.start_timeout_s + OPERATION_S
        )

    def update_backend(
        self,
        name: str,
        func_or_class: Any,
        *init_args: Any,
        config: BackendConfig | Mapping[str, Any] | None = None,
        ray_actor_options: dict[str, Any] | None = None,
        **init_kwargs: Any,
    ) -> None:
        """Replace a backend's code by a rolling update: new replicas are ready before old ones drain.

        Raises:
            BackendNotFound: There is none.
            TypeError, ConfigError, SerializationError: An argument is bad, or an application would become other code
                or the other way round; nothing has changed.
            BackendStartError: The new code cannot start; the old goes on serving.
        """
        old = self._config(name)
        base = None if isinstance(func_or_class, Application) else old  # its kind is checked before its options
        new = checked_backend(name, func_or_class, init_args, init_kwargs, config, ray_actor_options, base=base)
        longest = old.merged(new.config)
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
            timeout_s=longest.start_timeout_s + longest.graceful_shutdown_timeout_s + OPERATION_S,
        )

    def update_backend_config(self, name: str, config: BackendConfig | Mapping[str, Any]) -> None:
        """Change the options that *config* gives; replicas keep running. Returns when it is in force.

        Raises:
            BackendNotFound: There is none.
            TypeError, ConfigError: An option is bad; nothing has changed.
            BackendStartError: Added replicas cannot start; nothing has changed.
            ReplicaDied: A replica ended in `reconfigure`; the old value stays in force.
            Exception: What the backend's `reconfigure` raised; the old value stays in force.
        """
        if config is None:
            raise TypeError("config must be a BackendConfig or a dict, got None")
        new = self._config(name).merged(config)
        self._operator.operate(
            Operation.UPDATE_BACKEND_CONFIG,
            name,
            packed_config(BackendConfig.of(config)),
            # One replica after another takes a new `user_config`, and the old one again if a later one refuses.
            timeout_s=new.start_timeout_s * 2 * new.num_replicas + new.graceful_shutdown_timeout_s + OPERATION_S,
        )

    def get_backend_config(self, name: str) -> BackendConfig:
        """Return a backend's options, defaults filled in.

        Raises:
            BackendNotFound: There is none.
        """
        return self._config(name)

    def list_backends(self) -> dict[str, BackendConfig]:
        """Return every backend's options, defaults filled in."""
        return {name: opened_config(config) for name, config in self._operator.operate(Operation.LIST_BACKENDS).items()}

    def delete_backend(self, name: str, force: bool = False) -> None:
        """Stop a backend; an unknown name is fine.

        Args:
            name: The backend.
            force: Remove the backend as a shadow too, and end its replicas at once: requests in flight fail, and
                `graceful_shutdown_timeout_s` is not waited for. A traffic split that names the backend still refuses.

        Raises:
            ConfigError: A traffic policy names it, or a shadow and *force* is not set.
        """
        config = self.list_backends().get(existing_name("backend", name))
        grace_s = config.graceful_shutdown_timeout_s if config is not None else 0.0
        self._operator.operate(Operation.DELETE_BACKEND, name, bool(force), timeout_s=grace_s + OPERATION_S)

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
        """Let callers use *backend* under *name*, and over HTTP at *route*; returns when every proxy routes it.

        Args:
            name: How handles refer to it.
            backend: Who gets its traffic, until `set_traffic`.
            route: A Starlette path such as "/api/{user_id:int}"; None: Python callers only. For an application it is a
                prefix: "/site" leads "/site" and all below it there, "/" everything that no route before it takes.
            methods: HTTP methods; HEAD comes with GET. None: GET, or of an application all that it has.
            timeout_s: Seconds that a request to it may take, whoever sends it; a sender's own limit counts if that is
                less. None: the sender's alone.

        Raises:
            TypeError: *backend* is missing or not a str, *route* no str that begins with "/", or *methods* a str.
            BackendNotFound: There is no such backend.
            ConfigError, ValueError: The name or the route is taken or malformed, *timeout_s* out of range, or *methods*
                given for an application.
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
        """Take an endpoint away; an unknown name is fine. Old handles then raise `EndpointNotFound`."""
        self._operator.operate(Operation.DELETE_ENDPOINT, existing_name("endpoint", name))

    def list_endpoints(self) -> dict[str, dict[str, Any]]:
        """Return `{name: {"route", "methods", "timeout_s", "traffic", "shadows"}}`; a key without a value has None."""
        endpoints: dict[str, dict[str, Any]] = self._operator.operate(Operation.LIST_ENDPOINTS)
        return endpoints

    def set_traffic(self, endpoint: str, traffic: Mapping[str, float]) -> None:
        """Replace an endpoint's split in one step; its shadows stay.

        Args:
            endpoint: Whose.
            traffic: Weight of each backend, at least 0; they sum to 1 within 1e-5.

        Raises:
            EndpointNotFound, BackendNotFound: One is unknown; the old split stays.
            ConfigError: The weights are none, or a backend is an application where others are none; the old split
                stays.
        """
        TrafficPolicy.split(traffic)
        self._operator.operate(Operation.SET_TRAFFIC, existing_name("endpoint", endpoint), dict(traffic))

    def shadow_traffic(self, endpoint: str, backend: str, proportion: float) -> None:
        """Send copies of a share of an endpoint's requests to *backend* as well; 0 ends that.

        Raises:
            EndpointNotFound, BackendNotFound: One is unknown.
            TypeError: *proportion* is no number in [0, 1].
            ConfigError: *backend* is an application where others are none.
        """
        TrafficPolicy.split({"-": 1.0}).with_shadow(str(backend), proportion)
        self._operator.operate(
            Operation.SHADOW_TRAFFIC, existing_name("endpoint", endpoint), existing_name("backend", backend), proportion
        )
