"""Starts an instance on Ray: joins or begins a cluster, and creates the actor of the controller."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from serve_bridge.config.addresses import is_loopback
from serve_bridge.config.http_options import HTTPOptions
from serve_bridge.config.network_options import NetworkOptions
from serve_bridge.errors import AuthenticationError, ConfigError
from serve_bridge.instance import instance_file as instances
from serve_bridge.instance.directory_claim import claim_directory
from serve_bridge.instance.instance import Instance, new_generation
from serve_bridge.instance.key_files import key_of_start
from serve_bridge.instance.tls_files import warn_if_readable
from serve_bridge.instance.vanishing_places import why_it_vanishes
from serve_bridge.runtimes.ray import node_files
from serve_bridge.runtimes.ray.actors import (
    NAMESPACE,
    actor_name,
    controller_name,
    engine_options,
    new_actor,
    node_ip,
    own_node,
    user_error,
)
from serve_bridge.runtimes.ray.controller_actor import ControllerActor
from serve_bridge.runtimes.ray.runtime import KVStore
from serve_bridge.runtimes.ray.tokens import told_refusals
from serve_bridge.specs import InstanceSpec
from serve_bridge.wire.keys import Key

START_S: Final = 60.0
"""Upper limit for the start of a controller, in seconds."""
CONNECT_S: Final = 5.0
"""Upper limit for a connection or an answer, in seconds."""
ENDING_S: Final = 60.0
"""Upper limit for the wait for the end of an instance with the same name, in seconds."""

_logger = logging.getLogger("serve_bridge.client")


def start_instance(
    name: str,
    http: HTTPOptions,
    network: NetworkOptions,
    *,
    detached: bool,
    address: str | None,
    state: str | None = None,
    fresh: bool = False,
) -> tuple[Instance, Callable[[], None]]:
    """Start an instance on Ray; return it, and a function to call after its shutdown.

    It keeps its state in the directory *state*; None: nowhere. With *fresh* it begins empty.

    Raises:
        ConfigError: An instance of this name runs on the cluster, or its keys cannot be kept.
        OSError, ValueError: The controller or the proxy cannot listen at its address; nothing of the instance is left.
        AuthenticationError: The cluster refuses the token of this process.
        ConnectionError: There is no cluster at *address*.
    """
    if ray.is_initialized():
        return _start_controller(name, http, network, detached=detached, shared=True, state=state, fresh=fresh)
    began = _join_cluster(address)
    if began and detached:
        _logger.warning("no Ray cluster ran, so the instance ends with this process; `ray start --head` begins one")
    try:
        instance, ended = _start_controller(
            name, http, network, detached=detached, shared=not began, state=state, fresh=fresh
        )
    except BaseException:
        ray.shutdown()
        raise

    def ended_too() -> None:
        ended()
        ray.shutdown()

    return instance, ended_too


def running_instance(name: str, address: str | None) -> Instance | None:
    """Join the cluster at *address*; return its instance *name*, or None if it does not exist.

    This waits for an instance during its start. If its start has failed, it does not exist.

    Raises:
        AuthenticationError: The cluster refuses the token of this process.
        ConnectionError: There is no cluster at *address*.
    """
    if not ray.is_initialized():
        _join_cluster(address)
    try:
        controller: Any = ray.get_actor(controller_name(name), namespace=NAMESPACE)
    except ValueError:
        return None
    try:
        found: Instance = ray.get(controller.start.remote(), timeout=START_S)
    except RayActorError:  # it has just ended
        return None
    except RayTaskError as error:
        _logger.debug("the start of instance %r failed: %s", name, error)
        # Its starter does the same, unless it was killed. Then the name would be taken for good.
        with contextlib.suppress(RayError):
            ray.kill(controller, no_restart=True)
        return None
    except RayError as error:
        raise user_error(error) from None
    return found


def _join_cluster(address: str | None) -> bool:
    """Make this process a Ray driver; return whether this began a new cluster.

    Raises:
        AuthenticationError: A cluster refuses the token of this process.
        ConnectionError: There is no cluster at *address*.
    """
    options: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "configure_logging": False}
    if address is None:
        address = os.environ.get("RAY_ADDRESS") or None
    with _kept_signal_handler():
        if address not in (None, "local"):
            _check_reachable(address)
            with told_refusals(address):
                ray.init(address=address, **options)
            return False
        if address is None:
            try:
                with told_refusals("auto"):
                    ray.init(address="auto", **options)
                return False
            except AuthenticationError:
                raise
            except ConnectionError:  # no cluster runs on this machine
                pass
        ray.init(address="local", include_dashboard=False, **options)
        return True


def _check_reachable(address: str | None) -> None:
    """Raise ConnectionError at once if nothing listens at "host:port"; Ray itself would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        return  # "auto", "local" or "ray://...", which Ray resolves
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except OSError as error:
        raise ConnectionError(f"no Ray cluster answers at {address}: {error.strerror or error}") from None


@contextlib.contextmanager
def _kept_signal_handler() -> Iterator[None]:
    """Keep the SIGTERM handler of the process, which `ray.init` replaces on the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start_controller(
    name: str,
    http: HTTPOptions,
    network: NetworkOptions,
    *,
    detached: bool,
    shared: bool,
    state: str | None,
    fresh: bool,
) -> tuple[Instance, Callable[[], None]]:
    generation = new_generation()
    host = node_ip()
    with (
        claim_directory(name, generation) as claim,
        key_of_start(name, network, kept=detached, state=state) as (key, kept),
    ):
        if detached and (why := why_it_vanishes(claim.directory)) is not None:
            _logger.warning("the files of the instance are in %s, which may vanish: %s", claim.directory, why)
        spec = InstanceSpec(
            name=name,
            generation=generation,
            runtime="ray",
            directory=str(claim.directory),
            detached=detached,
            # A new cluster of this process has one node, so unix sockets suffice.
            tcp_host=network.listen_host or (host if shared and not is_loopback(host) else None),
            http=http,
            node=own_node(),
            state=state,
            fresh=fresh,
            network=network,
            keeps_keys=kept,
        )
        warn_if_readable(name, spec.tcp_host, network.tls(name))
        return _start_controller_of(spec, key)


def _start_controller_of(spec: InstanceSpec, key: Key) -> tuple[Instance, Callable[[], None]]:
    options = engine_options(spec.node, name=controller_name(spec.name), max_restarts=-1)
    controller = _new_controller(spec.name, options, spec, key)
    try:
        instance: Instance = ray.get(controller.start.remote(), timeout=START_S)
    except BaseException as error:
        with contextlib.suppress(RayError):
            ray.kill(controller, no_restart=True)
        _remove_rest(spec)
        raise user_error(error) from None
    if instance.directory != spec.directory:  # Ray had no room on this node, and placed the controller on another one
        instance = msgspec.structs.replace(instance, directory=spec.directory)
        instances.write(instance)

    return instance, lambda: _wait_until_gone(controller)


def _new_controller(name: str, options: dict[str, Any], spec: InstanceSpec, key: Key) -> Any:
    """Create the actor of the controller. Wait first for the end of an instance of the same name, if it ends soon.

    Raises:
        ConfigError: An instance of this name runs.
    """
    deadline = time.monotonic() + ENDING_S
    while True:
        try:
            return new_actor(ControllerActor, options, spec, key)
        except ValueError as error:
            if "already" not in str(error) and "taken" not in str(error):
                raise
        if not _is_ending(name):
            raise ConfigError(
                f"instance {name!r} runs on this cluster already; connect() joins it, or use another name"
            )
        if time.monotonic() > deadline:
            raise ConfigError(
                f"instance {name!r} still runs on this cluster: its starter has gone, but it has not ended within "
                f"{ENDING_S:g} s; try again, or use another name"
            )
        time.sleep(0.1)


def _is_ending(name: str) -> bool:
    """Return whether the instance *name* has ended or ends soon, because its starter has gone or shut it down."""
    try:
        controller: Any = ray.get_actor(controller_name(name), namespace=NAMESPACE)
        return bool(ray.get(controller.is_ending.remote(), timeout=CONNECT_S))
    except (ValueError, RayActorError):
        return True
    except GetTimeoutError:
        return False


def _remove_rest(spec: InstanceSpec) -> None:
    """Undo the start of a controller: end its actors, and remove its files on all nodes."""
    prefix = actor_name(spec.generation, "")
    try:
        for actor in ray.util.list_named_actors(all_namespaces=True):
            if actor["name"].startswith(prefix):
                with contextlib.suppress(ValueError):
                    ray.kill(ray.get_actor(actor["name"], namespace=actor["namespace"]), no_restart=True)
        asyncio.run(KVStore(spec.generation).delete(""))
        nodes: Any = ray.nodes()  # type: ignore[no-untyped-call]
        others = [node["NodeID"] for node in nodes if node["Alive"] and node["NodeID"] != spec.node]
        node_files.remove_now(spec.name, spec.generation, others)
    except Exception as error:  # the cluster has gone
        _logger.warning("instance %r: not all of its start could be undone: %s", spec.name, error)


def _wait_until_gone(actor: Any) -> None:
    deadline = time.monotonic() + 10
    # Without a cluster, `ray.get` would start one.
    while ray.is_initialized() and time.monotonic() < deadline:
        try:
            ray.get(actor.ping.remote(), timeout=1)
        except GetTimeoutError:
            continue
        except RayError:
            return
        time.sleep(0.02)
