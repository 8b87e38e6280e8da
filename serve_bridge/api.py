"""The functions of `import serve_bridge as serve`: make, find and end an instance, and act on the current one.

Rule 1: `start` and `connect` set the process's current client; every other function here is a method of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from starlette.requests import Request

from serve_bridge.client.backend_shapes import BackendClass, BackendFunction
from serve_bridge.client.client import Client
from serve_bridge.client.current import current_client, own_client, set_current, shut_down_current
from serve_bridge.client.handle import AsyncHandle, Data, Handle, Value
from serve_bridge.client.instance_search import find_client
from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.config.http_options import HTTPOptions
from serve_bridge.request.serve_request import ServeRequest

if TYPE_CHECKING:
    from serve_bridge.deployment.deploy import Deployment


def start(
    *,
    detached: bool = False,
    name: str = "default",
    http_options: HTTPOptions | Mapping[str, Any] | None = None,
    address: str | None = None,
    runtime: str = "ray",
) -> Client:
    """Start an instance: a controller, and the proxies that *http_options* ask for.

    Args:
        detached: Let it outlive this process; end it with `shutdown`. Not with `runtime="local"`.
        name: Unique per cluster and user.
        http_options: Where proxies listen and what they bear; None: one proxy on 127.0.0.1:8000.
        address: The Ray cluster to join if this process uses none yet; None: Ray's own rules, else a new local one.
            Not with `runtime="local"`.
        runtime: "ray", or "local" for an instance inside this process, without Ray, for tests and development.

    Returns:
        The client, which is now the process's current one. The proxy answers.

    Raises:
        ConfigError: An option is bad, a TLS file cannot be used, an instance of that name runs, or gevent or eventlet
            has replaced the sockets of this process. It is a ValueError.
        OSError, ValueError: A proxy cannot listen where it should; nothing is left running.
        AuthenticationError: The Ray cluster refuses the token of this process. It is a ConnectionError.
        ImportError: Ray, or what a proxy needs, is missing or has a version that was not tried. The message names the
            extras to install.
    """
    from serve_bridge.client.instance_start import start_instance  # late: web workers join, and start none

    client = start_instance(detached=detached, name=name, http_options=http_options, address=address, runtime=runtime)
    set_current(client)
    return client


def connect(address: str | None = None, *, name: str = "default") -> Client:
    """Join a running instance; this process becomes no Ray driver.

    Args:
        address: What `client.address` says; None: SERVE_BRIDGE_ADDRESS, else the instance *name* of this user here.
        name: Which of this user's instances on this machine.

    Returns:
        The client, which is now the process's current one. Inside a replica: of the replica's own instance.

    Raises:
        NotConnected: None runs; the message names all three places that were looked in.
        ConfigError: What was given is not an address, or gevent or eventlet has replaced the sockets of this process.
    """
    own = own_client()
    if own is not None and address is None:
        return own
    client = find_client(address, name)
    set_current(client)
    return client


def shutdown() -> None:
    """Drain and stop the current instance, and remove everything it made; twice is a no-op."""
    shut_down_current()


def deploy(
    *what: object,
    client: Client | None = None,
    project: str | None = None,
    traffic: bool = False,
    prune: bool = False,
    force: bool = False,
    dry_run: bool = False,
    take_over: bool = False,
) -> Deployment:
    """See `Client.deploy`; *client* is the process's current one if it is None."""
    given = current_client() if client is None else client
    return given.deploy(
        *what, project=project, traffic=traffic, prune=prune, force=force, dry_run=dry_run, take_over=take_over
    )


def status() -> dict[str, Any]:
    """See `Client.status`."""
    return current_client().status()


def create_backend(
    name: str,
    func_or_class: Any,
    *init_args: Any,
    config: BackendConfig | Mapping[str, Any] | None = None,
    ray_actor_options: dict[str, Any] | None = None,
    **init_kwargs: Any,
) -> None:
    """See `Client.create_backend`."""
    current_client().create_backend(
        name, func_or_class, *init_args, config=config, ray_actor_options=ray_actor_options, **init_kwargs
    )


def update_backend(
    name: str,
    func_or_class: Any,
    *init_args: Any,
    config: BackendConfig | Mapping[str, Any] | None = None,
    ray_actor_options: dict[str, Any] | None = None,
    **init_kwargs: Any,
) -> None:
    """See `Client.update_backend`."""
    current_client().update_backend(
        name, func_or_class, *init_args, config=config, ray_actor_options=ray_actor_options, **init_kwargs
    )


def update_backend_config(name: str, config: BackendConfig | Mapping[str, Any]) -> None:
    """See `Client.update_backend_config`."""
    current_client().update_backend_config(name, config)


def get_backend_config(name: str) -> BackendConfig:
    """See `Client.get_backend_config`."""
    return current_client().get_backend_config(name)


def list_backends() -> dict[str, BackendConfig]:
    """See `Client.list_backends`."""
    return current_client().list_backends()


def delete_backend(name: str, force: bool = False) -> None:
    """See `Client.delete_backend`."""
    current_client().delete_backend(name, force)


def create_endpoint(
    name: str,
    *,
    backend: str,
    route: str | None = None,
    methods: Iterable[str] | None = None,
    timeout_s: float | None = None,
) -> None:
    """See `Client.create_endpoint`."""
    current_client().create_endpoint(name, backend=backend, route=route, methods=methods, timeout_s=timeout_s)


def delete_endpoint(name: str) -> None:
    """See `Client.delete_endpoint`."""
    current_client().delete_endpoint(name)


def list_endpoints() -> dict[str, dict[str, Any]]:
    """See `Client.list_endpoints`."""
    return current_client().list_endpoints()


def set_traffic(endpoint: str, traffic: Mapping[str, float]) -> None:
    """See `Client.set_traffic`."""
    current_client().set_traffic(endpoint, traffic)


def shadow_traffic(endpoint: str, backend: str, proportion: float) -> None:
    """See `Client.shadow_traffic`."""
    current_client().shadow_traffic(endpoint, backend, proportion)


@overload
def get_handle(endpoint: str, missing_ok: bool = False, sync: Literal[True] = True) -> Handle: ...


@overload
def get_handle(endpoint: str, missing_ok: bool = False, *, sync: Literal[False]) -> AsyncHandle: ...


@overload
def get_handle(endpoint: str, missing_ok: bool, sync: Literal[False]) -> AsyncHandle: ...


@overload
def get_handle(endpoint: str, missing_ok: bool = False, sync: bool = True) -> Handle: ...


def get_handle(endpoint: str, missing_ok: bool = False, sync: bool = True) -> Handle:
    """Return a handle that calls *endpoint*.

    Args:
        endpoint: The endpoint's name.
        missing_ok: Return a handle for an unknown endpoint too. Its calls raise `EndpointNotFound` until the endpoint
            exists.
        sync: False: return an `AsyncHandle`, whose `remote` is awaited.

    Raises:
        EndpointNotFound: The endpoint does not exist, and *missing_ok* is not set. It is a KeyError.
        NotConnected: The instance does not answer, or this process has no current client.
        InstanceClosed: The instance was shut down.
    """
    return current_client().get_handle(endpoint, missing_ok, sync)


@overload
def handle(backend: type[BackendClass[[ServeRequest[Data]], Awaitable[Value]]], /) -> Handle[[Data], Value]: ...


@overload
def handle(backend: type[BackendClass[[ServeRequest[Data]], Value]], /) -> Handle[[Data], Value]: ...


@overload
def handle(backend: type[BackendClass[[Request], Awaitable[Value]]], /) -> Handle[[Any], Value]: ...


@overload
def handle(backend: type[BackendClass[[Request], Value]], /) -> Handle[[Any], Value]: ...


@overload
def handle(
    backend: type[BackendClass[[list[ServeRequest[Data]]], Awaitable[Sequence[Value]]]], /
) -> Handle[[Data], Value]: ...


@overload
def handle(backend: type[BackendClass[[list[ServeRequest[Data]]], Sequence[Value]]], /) -> Handle[[Data], Value]: ...


@overload
def handle(backend: type[Any], /) -> Handle: ...


@overload
def handle(backend: Callable[[ServeRequest[Data]], Awaitable[Value]], /) -> Handle[[Data], Value]: ...


@overload
def handle(backend: Callable[[ServeRequest[Data]], Value], /) -> Handle[[Data], Value]: ...


@overload
def handle(backend: Callable[[Request], Awaitable[Value]], /) -> Handle[[Any], Value]: ...


@overload
def handle(backend: Callable[[Request], Value], /) -> Handle[[Any], Value]: ...


@overload
def handle(backend: Callable[[list[ServeRequest[Data]]], Awaitable[Sequence[Value]]], /) -> Handle[[Data], Value]: ...


@overload
def handle(backend: Callable[[list[ServeRequest[Data]]], Sequence[Value]], /) -> Handle[[Data], Value]: ...


@overload
def handle(backend: BackendFunction[Awaitable[Value]], /) -> Handle[[], Value]: ...


@overload
def handle(backend: BackendFunction[Value], /) -> Handle[[], Value]: ...


def handle(backend: Any, /) -> Handle[..., Any]:
    """Return a typed handle of a declared backend: it calls the backend's endpoint.

    ::

        @serve.backend("mood")
        class Mood:
            def __call__(self, request: serve.ServeRequest[str]) -> float: ...
            def count(self, by: int = 1) -> int: ...

        serve.handle(Mood).call("a fine day")  # a float
        serve.handle(Mood).method(Mood.count).call(5)  # an int

    A backend takes a request, so a call takes one value: the request's `data`. `ServeRequest[str]` gives its type.
    The result has the type that the backend returns. Of an `async def` it is the awaited type, and of batched code
    the type of one item.

    Args:
        backend: A function or class with `@serve.backend(...)`. If several backends share the endpoint, its traffic
            decides which of them answers a call.

    Raises:
        TypeError: *backend* is not declared.
        ConfigError: *backend* is an application, which is called over HTTP only.
        EndpointNotFound: The endpoint does not exist. It is a KeyError.
        NotConnected: The instance does not answer, or this process has no current client.
        InstanceClosed: The instance was shut down.
    """
    return current_client().handle(backend)
