"""The functions of `import serve_bridge as serve`: make, find and end an instance, and act on the current one.

Rule 1: `start` and `connect` set the process's current client; every other function here is a method of it.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from serve_bridge.client.client import Client, client_at, end_each
from serve_bridge.client.handle import Handle
from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.config.http_options import HTTPOptions, Location
from serve_bridge.config.names import check_name
from serve_bridge.context import current_replica
from serve_bridge.errors import ConfigError, InstanceClosed, NotConnected, shown
from serve_bridge.instance import instance_file as instances
from serve_bridge.instance.instance import Instance
from serve_bridge.instance.liveness import is_alive
from serve_bridge.process.extras import require
from serve_bridge.process.monkey_patches import check_not_patched

if TYPE_CHECKING:
    from serve_bridge.deployment.deploy import Deployment

_lock = threading.RLock()
_current: Client | None = None
_started: list[Client] = []
_was_shut_down = False


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
    options = _checked(name, http_options)
    if runtime == "ray":
        _require_ray(options)
        from serve_bridge.runtimes.ray.start import start_instance  # late: Ray is an extra, slow to import

        instance, ended = start_instance(name, options, detached=bool(detached), address=address)
    elif runtime == "local":
        for option, given in (("detached", detached), ("address", address is not None)):
            if given:
                raise ConfigError(
                    f"{option} means nothing to runtime='local', which is inside this process; leave it out"
                )
        from serve_bridge.runtimes.local import start_instance as start_here  # late: most processes start none

        instance, ended = start_here(name, options)
    else:
        raise ConfigError(f"runtime must be 'ray' or 'local', got {shown(runtime)}")
    return _set_current(_started_here(instance, ended, lease=runtime == "local" or not detached))


def _checked(name: str, http_options: HTTPOptions | Mapping[str, Any] | None) -> HTTPOptions:
    """Check what can be checked before anything starts; return the options."""
    check_name("instance", name)
    check_not_patched()
    options = HTTPOptions.of(http_options)
    if options.ssl_certfile is not None:
        from serve_bridge.http_server.certificate import (
            check_certificate,  # late: no process needs it that starts no proxy
        )

        check_certificate(options)
    return options


def _require_ray(options: HTTPOptions) -> None:
    """Raise ImportError if Ray is missing; the error names what the proxy needs as well.

    With Ray, the proxy's own process checks what it needs.
    """
    require("runtime='ray'", ["ray"], also=[] if options.location is Location.NoServer else ["proxy"])


def ensure_started(name: str, http_options: Mapping[str, Any], address: str) -> tuple[Client, list[str]]:
    """Start a detached instance on the Ray cluster at *address*, or join the one of that name that runs there.

    Returns:
        Its client, which is not the process's current one, and in what the options of a running one differ from these.

    Raises:
        Exception: As `start`.
    """
    options = _checked(name, http_options)
    _require_ray(options)
    from serve_bridge.runtimes.ray.start import running_instance  # late: as above

    found = running_instance(name, address)
    if found is None:
        try:
            return start(detached=True, name=name, http_options=options, address=address), []
        except ConfigError:  # another process may have been faster
            found = running_instance(name, address)
            if found is None:
                raise
    client = Client(found)
    return client, client.operate("differences", options, True)


def lasting_address(client: Client) -> str:
    """Return the address that the next start of the instance's name will have too; its own if another has the name."""
    return instances.lasting_address(client._instance)


def start_local(name: str) -> Client:
    """Start an instance inside this process, without a proxy, that is not the process's current one."""
    from serve_bridge.runtimes.local import start_instance  # late: as above

    return _started_here(*start_instance(name, HTTPOptions.of({"location": "NoServer"})), lease=True)


def _started_here(instance: Instance, ended: Callable[[], None], *, lease: bool) -> Client:
    client = Client(instance, on_end=ended, lease=lease)
    if client.is_owner():
        client.hold()
    _started.append(client)
    # Last registered, first called: what an exit does to the instance it does before Ray disconnects.
    atexit.unregister(_end_with_process)
    atexit.register(_end_with_process)
    started = sys.modules.get("multiprocessing.process")
    if started is not None and started.parent_process() is not None:
        from multiprocessing.util import Finalize  # late: only a process that multiprocessing has started needs it

        Finalize(None, _end_with_process, exitpriority=0)  # such a process ends without calling what atexit has
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
    own = _own_client()
    if own is not None and address is None:
        return own
    return _set_current(find_client(address, name))


def find_client(address: str | None, name: str) -> Client:
    """Return a new client as `connect` finds it, without making it the process's current one.

    Raises:
        NotConnected, ConfigError: As `connect`.
    """
    return client_of(find_instance(address, name), address)


def client_of(found: Instance, address: str | None) -> Client:
    """Return a new client of *found*, which was looked for at *address*."""
    return Client(found, address=address or os.environ.get(instances.ADDRESS_VARIABLE))


def find_instance(address: str | None, name: str, is_alive: Callable[[Instance], bool] = is_alive) -> Instance:
    """Return the running instance that `connect` would join; *is_alive* says whether it runs.

    Raises:
        NotConnected, ConfigError: As `connect`.
    """
    check_name("instance", name)
    check_not_patched()
    found = instances.find(address, name)
    if not is_alive(found):
        raise NotConnected(
            f"instance {found.name!r} at {found.address} does not answer; looked in: the address argument, "
            f"{instances.ADDRESS_VARIABLE}, {instances.discovery_file(name)} (the first one given counts)"
        )
    return found


def shutdown() -> None:
    """Drain and stop the current instance, and remove everything it made; twice is a no-op."""
    global _current, _was_shut_down
    with _lock:
        client, _current = _current, None
    if client is not None:
        _was_shut_down = True
        client.shutdown()


def current_client() -> Client:
    """Return the process's current client.

    Raises:
        NotConnected: There is none yet.
        InstanceClosed: It was shut down.
    """
    client = _own_client() or _current
    if client is not None:
        return client
    if _was_shut_down:
        raise InstanceClosed("the instance was shut down; call serve_bridge.start() or connect() again")
    raise NotConnected("no instance: call serve_bridge.start(), or serve_bridge.connect() to join a running one")


def _own_client() -> Client | None:
    """Return the client of the replica this code runs in, if it runs in one and the process has one."""
    context = current_replica()
    return client_at(context.generation, "") if context is not None else None


def set_current(client: Client | None) -> Client | None:
    """Make *client* the process's current one, or let there be none; return the one that was."""
    global _current
    with _lock:
        before, _current = _current, client
    return before


def _set_current(client: Client) -> Client:
    set_current(client)
    return client


def _end_with_process() -> None:
    """An instance that is not detached ends with the process that started it, and cleans up after itself."""
    # If one fails, its controller ends it by itself when this process is gone.
    end_each([client.shutdown for client in _started if client.is_owner()])


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


def get_handle(endpoint: str, missing_ok: bool = False, sync: bool = True) -> Handle:
    """See `Client.get_handle`."""
    return current_client().get_handle(endpoint, missing_ok, sync)
