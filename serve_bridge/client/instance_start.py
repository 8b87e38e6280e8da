"""The start of an instance from this process. Other processes do not import this module."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final, Unpack

from serve_bridge.client.client import Client, link_of
from serve_bridge.client.current import started_here
from serve_bridge.client.instance_link import InstanceLink
from serve_bridge.config.http_options import HTTPOptions, HTTPOptionsDict, Location
from serve_bridge.config.names import check_name
from serve_bridge.config.network_options import NetworkOptions, NetworkOptionsDict
from serve_bridge.config.signatures import check_options_of
from serve_bridge.config.start_options import START_DEFAULTS, StartOptions
from serve_bridge.errors import ConfigError
from serve_bridge.instance import instance_file as instances
from serve_bridge.instance.instance import remote_address
from serve_bridge.instance.key_files import secret_file
from serve_bridge.instance.operations import Operation
from serve_bridge.instance.state_directory import chosen_state_directory
from serve_bridge.printable import shown
from serve_bridge.process.extras import require
from serve_bridge.process.monkey_patches import check_not_patched
from serve_bridge.wire.tls import check_files

RELEASE_S: Final = 1.0
"""Seconds that an ending process has to release its state before another start of the same name is refused."""


def start_instance(**options: Unpack[StartOptions]) -> Client:
    """Start an instance; see `serve_bridge.start`. Its client does not become the current one."""
    check_options_of("start", options, START_DEFAULTS)
    name, detached, address = options.get("name", "default"), options.get("detached", False), options.get("address")
    runtime = options.get("runtime", "ray")
    http = _checked(name, options.get("http_options"))
    fresh = bool(options.get("fresh", False))
    state = _checked_state(name, options.get("state"), detached=bool(detached), fresh=fresh)
    network = NetworkOptions.of(options)
    if http.location is not Location.NoServer and network.data_ports is not None and http.port in network.ports:
        raise ConfigError(
            f"port={http.port} of http_options (--port) is inside data_ports={network.data_ports!r}, and a replica "
            "could take it before a proxy; use another port or range"
        )
    tls = network.tls(name)
    if tls is not None:
        check_files(tls)
    if runtime == "ray":
        _require_ray(http)
        from serve_bridge.runtimes.ray import start as ray_start  # late: Ray is an extra, and slow to import

        instance, ended = ray_start.start_instance(
            name, http, network, detached=bool(detached), address=address, state=state, fresh=fresh
        )
    elif runtime == "local":
        for option, given in (("detached", detached), ("address", address is not None)):
            if given:
                raise ConfigError(
                    f"{option} means nothing to runtime='local', which is inside this process; leave it out"
                )
        return _started_locally(name, http, network, state, fresh=fresh)
    else:
        raise ConfigError(f"runtime must be 'ray' or 'local', got {shown(runtime)}")
    return Client(started_here(instance, ended, lease=not detached))


def start_local(name: str) -> Client:
    """Start an instance inside this process, without a proxy. Its client does not become the current one."""
    return _started_locally(name, HTTPOptions.of({"location": "NoServer"}), NetworkOptions())


def ensure_started(
    name: str,
    http_options: HTTPOptionsDict,
    address: str,
    state: str | bool | None = None,
    *,
    fresh: bool = False,
    **network: Unpack[NetworkOptionsDict],
) -> tuple[Client, list[str]]:
    """Start a detached instance on the Ray cluster at *address*, or join the running one of that name.

    Returns:
        Its client, which does not become the current one, and where the options of a running one differ from these.

    Raises:
        Exception: As `start`.
    """
    options = _checked(name, http_options)
    directory = chosen_state_directory(name, state, detached=True)
    _require_ray(options)
    from serve_bridge.runtimes.ray.start import running_instance  # late: Ray is an extra, and slow to import

    began = time.monotonic()
    found = running_instance(name, address)
    if found is None:
        try:
            if directory is not None:  # the controller would find the same problem, but seconds later
                # The user waits, and joining Ray has given an ending process time to release the state.
                _check_usable(directory, wait_s=max(0.0, RELEASE_S - (time.monotonic() - began)))
            client = start_instance(
                detached=True,
                name=name,
                http_options=options,
                address=address,
                runtime="ray",
                state=state,
                fresh=fresh,
                **network,
            )
            return client, []
        except ConfigError:  # another process may have been faster
            found = running_instance(name, address)
            if found is None:
                raise
    link = InstanceLink(found)
    kept_in = str(directory) if directory is not None else None
    differences: list[str] = link.operate(Operation.DIFFERENCES, options, True, kept_in, NetworkOptions.of(network))
    return Client(link), [*differences, *(["a running instance cannot begin empty"] if fresh else [])]


def lasting_address(client: Client) -> str:
    """Return the address which the next start under the same name keeps; its own if another instance has the name."""
    return instances.lasting_address(link_of(client).instance)


def address_over_tcp(client: Client) -> str:
    """Return the address for other hosts of an instance that listens for them."""
    instance = link_of(client).instance
    assert instance.controller.tcp is not None
    return remote_address(*instance.controller.tcp, instance.name)


def keys_directory(name: str, key_file: str | None, state: str | bool | None) -> Path:
    """Return the directory of the key files of instance *name*; the other arguments are as for `start`."""
    directory = chosen_state_directory(name, state, detached=True)
    return secret_file(name, key_file, None if directory is None else str(directory)).parent


def _checked(name: str, http_options: HTTPOptions | HTTPOptionsDict | None) -> HTTPOptions:
    """Check what can be checked before anything starts; return the options."""
    check_name("instance", name)
    check_not_patched()
    options = HTTPOptions.of(http_options)
    if options.ssl_certfile is not None:
        from serve_bridge.http_server import certificate  # late: only a proxy with TLS needs it

        certificate.check_certificate(options)
    return options


def _checked_state(
    name: str, given: str | os.PathLike[str] | bool | None, *, detached: bool, fresh: bool
) -> str | None:
    """Return the state directory; check its content before anything starts."""
    directory = chosen_state_directory(name, given, detached=detached)
    if directory is None:
        return None
    _check_outside(directory)
    if not fresh:
        from serve_bridge.state.state_files import StateFiles  # late: most processes keep no state

        StateFiles(directory).read()
    return str(directory)


def _check_outside(directory: Path) -> None:
    """Raise ConfigError if *directory* is inside the state of an instance, whose files would be mixed with its own."""
    from serve_bridge.state.state_files import StateFiles  # late: most processes keep no state

    parent = directory.parent
    if StateFiles(parent).is_state():
        raise ConfigError(
            f"state={str(parent)!r} is itself the state of instance {parent.name!r}, and a start adds the name to it; "
            f"give the directory above it, {parent.parent} (--state)"
        )


def _check_usable(directory: Path, wait_s: float) -> None:
    """Raise ConfigError if a running instance keeps its state in *directory*, or if nothing can be written there."""
    from serve_bridge.state.state_files import StateFiles  # late: most processes keep no state

    files = StateFiles(directory)
    files.lock(wait_s)
    files.close()


def _require_ray(options: HTTPOptions) -> None:
    """Raise ImportError if Ray is missing. The error names the packages of the proxy too.

    If Ray is there, the proxy's own process checks its packages.
    """
    require("runtime='ray'", ["ray"], also=[] if options.location is Location.NoServer else ["proxy"])


def _started_locally(
    name: str, options: HTTPOptions, network: NetworkOptions, state: str | None = None, *, fresh: bool = False
) -> Client:
    from serve_bridge.runtimes import local  # late: most processes start no local instance

    return Client(started_here(*local.start_instance(name, options, network, state, fresh=fresh), lease=True))
