"""The functions that change and ask the current instance. `Client` has the same methods, with the same docstrings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from serve_bridge.client.current import current_client
from serve_bridge.config.backend_config import BackendConfig, BackendOptions
from serve_bridge.http.methods import Methods
from serve_bridge.management.status_dicts import EndpointDict, InstanceStatusDict
from serve_bridge.user_code.application import Application


def status() -> InstanceStatusDict:
    """Return the status of the instance: nodes, proxies, backends with their replicas, endpoints, deployments.

    Raises:
        NotConnected: No instance answers.
        InstanceClosed: The instance was shut down.
    """
    return current_client().status()


def create_backend(
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
    current_client().create_backend(
        name, func_or_class, *init_args, config=config, ray_actor_options=ray_actor_options, **init_kwargs
    )


def update_backend(
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
        max_surge: Upper limit for the replicas above `num_replicas` that run during this update. None: the option of
            the backend.
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
        NotConnected: No instance answers, or the controller ended during the update. Then the message says how far the
            update came. The next controller undoes it.
        InstanceClosed: The instance was shut down.
    """
    current_client().update_backend(
        name,
        func_or_class,
        *init_args,
        config=config,
        ray_actor_options=ray_actor_options,
        max_surge=max_surge,
        max_unavailable=max_unavailable,
        **init_kwargs,
    )


def update_backend_config(name: str, config: BackendConfig | BackendOptions) -> None:
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
    current_client().update_backend_config(name, config)


def get_backend_config(name: str) -> BackendConfig:
    """Return the options of a backend, with defaults filled in.

    Args:
        name: The backend's name.

    Raises:
        BackendNotFound: The backend does not exist.
        NotConnected: No instance answers.
        InstanceClosed: The instance was shut down.
    """
    return current_client().get_backend_config(name)


def list_backends() -> dict[str, BackendConfig]:
    """Return the options of each backend by its name, with defaults filled in.

    Raises:
        NotConnected: No instance answers.
        InstanceClosed: The instance was shut down.
    """
    return current_client().list_backends()


def delete_backend(name: str, force: bool = False) -> None:
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
    current_client().delete_backend(name, force)


def create_endpoint(
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
    current_client().create_endpoint(name, backend=backend, route=route, methods=methods, timeout_s=timeout_s)


def delete_endpoint(name: str) -> None:
    """Delete an endpoint. An unknown name is not an error. Existing handles then raise `EndpointNotFound`.

    Args:
        name: The endpoint's name.

    Raises:
        NotConnected: No instance answers.
        InstanceClosed: The instance was shut down.
    """
    current_client().delete_endpoint(name)


def list_endpoints() -> dict[str, EndpointDict]:
    """Return the route, HTTP methods, time limit, traffic and shadows of each endpoint by its name.

    Raises:
        NotConnected: No instance answers.
        InstanceClosed: The instance was shut down.
    """
    return current_client().list_endpoints()


def set_traffic(endpoint: str, traffic: Mapping[str, float]) -> None:
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
    current_client().set_traffic(endpoint, traffic)


def shadow_traffic(endpoint: str, backend: str, proportion: float) -> None:
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
    current_client().shadow_traffic(endpoint, backend, proportion)
