"""The operations of an instance: what clients change and ask of its backends, endpoints and traffic.

Rule 1: the caller makes every check that needs no state. If a check fails, nothing was sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from serve_bridge.config.backend_config import BackendConfig, BackendOptions
from serve_bridge.config.checks import optional, seconds, whole_number
from serve_bridge.config.names import check_name, existing_name
from serve_bridge.config.options import MOST_REPLICAS
from serve_bridge.errors import BackendNotFound
from serve_bridge.http.methods import Methods, checked_methods
from serve_bridge.http.path_params import check_route
from serve_bridge.instance.instance_status import InstanceStatus
from serve_bridge.instance.operations import Operation
from serve_bridge.management import time_limits
from serve_bridge.management.arguments import checked_backend
from serve_bridge.management.code_update import update_code
from serve_bridge.management.operator import OPERATION_S, Operator
from serve_bridge.management.status_dicts import EndpointDict, InstanceStatusDict
from serve_bridge.printable import shown
from serve_bridge.specs import BackendUpdate, opened_config, packed_config
from serve_bridge.traffic import TrafficPolicy
from serve_bridge.user_code.application import Application

_check_timeout: Final = optional(seconds())
_check_bound: Final = optional(whole_number(0, MOST_REPLICAS))


class Management:
    """The operations of one instance."""

    def __init__(self, operator: Any, /) -> None:
        """Use *operator* to reach the controller."""
        self._operator: Operator = operator

    @property
    def http_urls(self) -> list[str]:
        """Base URLs of the instance's proxies."""
        return self.status()["http_urls"]

    def status(self) -> InstanceStatusDict:
        """Return the status of the instance: nodes, proxies, backends with their replicas, endpoints, deployments.

        Raises:
            NotConnected: No instance answers.
            InstanceClosed: The instance was shut down.
        """
        status: InstanceStatus = self._operator.operate(Operation.STATUS)
        return cast(InstanceStatusDict, status.as_dict())

    # backends

    def create_backend(
        self,
        name: str,
        func_or_class: Callable[..., Any] | Application | str,
        *init_args: Any,
        config: BackendConfig | BackendOptions | None = None,
        ray_actor_options: dict[str, Any] | None = None,
        **init_kwargs: Any,
    ) -> None:
        """Start a backend. Returns when its replicas are ready.

        Args:
            name: The backend's name, by which endpoints refer to it.
            func_or_class: A function, a class, an import path "package.module:Attr", or an application, as `asgi_app`
                and `wsgi_app` return it.
            init_args: Arguments of the class's constructor.
            config: Options of the backend, such as `{"num_replicas": 2}`; None: the defaults of `BackendConfig`.
            ray_actor_options: Resources and environment of its actors, as Ray's `actor.options(...)` takes them.
            init_kwargs: Keyword arguments of the constructor.

        Raises:
            TypeError, ConfigError: An argument has a wrong type or value, or the name is taken. Nothing was started.
            SerializationError: The code or an argument cannot be pickled. Nothing was started.
            BackendStartError: The backend cannot start. Nothing is left of it, and the name is free.
            NotConnected: No instance answers.
            InstanceClosed: The instance was shut down.
        """
        backend = checked_backend(name, func_or_class, init_args, init_kwargs, config, ray_actor_options)
        self._operator.operate(Operation.CREATE_BACKEND, backend, timeout_s=time_limits.to_create(backend.config))

    def update_backend(
        self,
        name: str,
        func_or_class: Callable[..., Any] | Application | str,
        *init_args: Any,
        config: BackendConfig | BackendOptions | None = None,
        ray_actor_options: dict[str, Any] | None = None,
        max_surge: int | None = None,
        max_unavailable: int | None = None,
        **init_kwargs: Any,
    ) -> None:
        """Replace the code of a backend by a rolling update. By default, new replicas are ready before old ones drain.

        Args:
            name: The backend's name.
            func_or_class: The new code, as in `create_backend`.
            init_args: Arguments of the class's constructor.
            config: Options to change; None: all options stay.
            ray_actor_options: Resources and environment of its actors; None: they stay.
            max_surge: Upper limit for the replicas above `num_replicas` that run during this update. None: the option
                of the backend.
            max_unavailable: Upper limit for the replicas of `num_replicas` that do not serve during this update. None:
                the option of the backend.
            init_kwargs: Keyword arguments of the constructor.

        Raises:
            BackendNotFound: The backend does not exist.
            TypeError, ConfigError: An argument has a wrong type or value, or an application would become other code or
                the other way round. Nothing has changed.
            SerializationError: The code or an argument cannot be pickled. Nothing has changed.
            BackendStartError: The new code cannot start. The old code keeps serving. After an update in bounded room,
                replaced replicas return to the old code, and the error says how far the update came.
            NotConnected: No instance answers, or the controller ended during the update. Then the message says how far
                the update came. The next controller undoes it.
            InstanceClosed: The instance was shut down.
        """
        old = self._config(name)
        _check_bound("max_surge", max_surge)
        _check_bound("max_unavailable", max_unavailable)
        # The controller checks first whether an application would become other code, and then the options.
        base = None if isinstance(func_or_class, Application) else old
        new = checked_backend(name, func_or_class, init_args, init_kwargs, config, ray_actor_options, base=base)
        update_code(
            self._operator,
            BackendUpdate(
                name=name,
                code=new.code,
                is_async=new.is_async,
                is_application=new.is_application,
                config=new.config if config is not None else None,
                actor_options=new.actor_options if ray_actor_options is not None else None,
                max_surge=max_surge,
                max_unavailable=max_unavailable,
            ),
            timeout_s=time_limits.to_update(old.merged(new.config), max_surge, max_unavailable),
        )

    def update_backend_config(self, name: str, config: BackendConfig | BackendOptions) -> None:
        """Change options of a backend, and keep its replicas running. Returns when the change is in force.

        Args:
            name: The backend's name.
            config: The options to change. Other options stay.

        Raises:
            BackendNotFound: The backend does not exist.
            TypeError, ConfigError: An option has a wrong type or value. Nothing has changed.
            BackendStartError: Added replicas cannot start. Nothing has changed.
            ReplicaDied: A replica ended in `reconfigure`. The old value stays in force.
            NotConnected: No instance answers.
            InstanceClosed: The instance was shut down.
            Exception: The error that the backend's `reconfigure` raised. The old value stays in force.
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
        """Return the options of a backend, with defaults filled in.

        Args:
            name: The backend's name.

        Raises:
            BackendNotFound: The backend does not exist.
            NotConnected: No instance answers.
            InstanceClosed: The instance was shut down.
        """
        return self._config(name)

    def list_backends(self) -> dict[str, BackendConfig]:
        """Return the options of each backend by its name, with defaults filled in.

        Raises:
            NotConnected: No instance answers.
            InstanceClosed: The instance was shut down.
        """
        return {name: opened_config(config) for name, config in self._operator.operate(Operation.LIST_BACKENDS).items()}

    def delete_backend(self, name: str, force: bool = False) -> None:
        """Stop a backend. An unknown name is not an error.

        Args:
            name: The backend's name.
            force: Remove the backend as a shadow too, and end its replicas at once: requests in flight fail, and
                `graceful_shutdown_timeout_s` is not waited for.

        Raises:
            ConfigError: The traffic of an endpoint names the backend, or a shadow does and *force* is not set.
            NotConnected: No instance answers.
            InstanceClosed: The instance was shut down.
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
        methods: Methods | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Create an endpoint, which callers reach by its name, and over HTTP by its route.

        Returns when every proxy routes it.

        Args:
            name: The endpoint's name, by which handles and adapters refer to it.
            backend: The backend that gets all traffic, until `set_traffic`.
            route: A Starlette path such as "/api/{user_id:int}"; None: Python callers only. For an application it is a
                prefix: "/site" covers "/site" and all paths below, and "/" every path that no earlier route covers.
            methods: HTTP methods; HEAD comes with GET. None: GET, or all methods of an application.
            timeout_s: Time limit of a request in seconds, for every caller. A caller may have a shorter one. None: only
                callers have a limit.

        Raises:
            TypeError: *backend* is not a str, *route* is not a str that begins with "/", or *methods* is a str.
            BackendNotFound: The backend does not exist.
            ConfigError: The name or the route is taken or malformed, *timeout_s* is out of range, or *methods* are
                given for an application. It is a ValueError.
            NotConnected: No instance answers.
            InstanceClosed: The instance was shut down.
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
        """Delete an endpoint. An unknown name is not an error. Existing handles then raise `EndpointNotFound`.

        Args:
            name: The endpoint's name.

        Raises:
            NotConnected: No instance answers.
            InstanceClosed: The instance was shut down.
        """
        self._operator.operate(Operation.DELETE_ENDPOINT, existing_name("endpoint", name))

    def list_endpoints(self) -> dict[str, EndpointDict]:
        """Return the route, HTTP methods, time limit, traffic and shadows of each endpoint by its name.

        Raises:
            NotConnected: No instance answers.
            InstanceClosed: The instance was shut down.
        """
        endpoints: dict[str, EndpointDict] = self._operator.operate(Operation.LIST_ENDPOINTS)
        return endpoints

    def set_traffic(self, endpoint: str, traffic: Mapping[str, float]) -> None:
        """Replace the traffic split of an endpoint in one step. Its shadows stay.

        Args:
            endpoint: The endpoint's name.
            traffic: Weight of each backend, at least 0. The weights sum to 1 within 1e-5.

        Raises:
            EndpointNotFound, BackendNotFound: A name is unknown. The old split stays.
            ConfigError: A weight is not a number of at least 0, the weights do not sum to 1, or applications and other
                backends are mixed. The old split stays.
            NotConnected: No instance answers.
            InstanceClosed: The instance was shut down.
        """
        TrafficPolicy.split(traffic)
        self._operator.operate(Operation.SET_TRAFFIC, existing_name("endpoint", endpoint), dict(traffic))

    def shadow_traffic(self, endpoint: str, backend: str, proportion: float) -> None:
        """Send copies of a share of an endpoint's requests to another backend. Callers never wait for the copies.

        Args:
            endpoint: The endpoint's name.
            backend: The backend that gets the copies; their answers are dropped.
            proportion: Share of the requests to copy, from 0 to 1; 0 removes the shadow.

        Raises:
            EndpointNotFound, BackendNotFound: A name is unknown.
            TypeError: *proportion* is not a number from 0 to 1.
            ConfigError: Applications and other backends are mixed.
            NotConnected: No instance answers.
            InstanceClosed: The instance was shut down.
        """
        TrafficPolicy.split({"-": 1.0}).with_shadow(str(backend), proportion)
        self._operator.operate(
            Operation.SHADOW_TRAFFIC, existing_name("endpoint", endpoint), existing_name("backend", backend), proportion
        )
