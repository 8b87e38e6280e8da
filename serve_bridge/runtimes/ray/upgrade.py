"""The start of new code on a cluster whose nodes have another version of serve_bridge than the running processes.

Rule 1: before anything changes, each node proves that it has this version, and that this version reads the checkpoint.
    Rights that this user needs for an open port are checked too.
Rule 2: Ray restarts the controller. Its new process imports the package afresh, and takes over the checkpoint,
    replicas and proxies of the old one.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from typing import Any, Final

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from serve_bridge.controller.checkpoint import Checkpoints
from serve_bridge.controller.kept_ports import GIVING_VERSION, port_of
from serve_bridge.errors import ConfigError, NotConnected
from serve_bridge.instance.copied_listener import can_copy
from serve_bridge.instance.instance import Instance
from serve_bridge.runtimes.ray.actors import NAMESPACE, PROXY_TITLE, controller_name, user_error
from serve_bridge.runtimes.ray.node_files import begin_on
from serve_bridge.runtimes.ray.runtime import KVStore
from serve_bridge.runtimes.ray.start import START_S, running_instance
from serve_bridge.wire.dialling import dial_running
from serve_bridge.wire.keys import OPERATORS

LOOK_S: Final = 0.05
"""Seconds between two looks whether the old controller has ended, and whether the new one runs."""
PROBE_S: Final = 60.0
"""Upper limit for the answers of all nodes, in seconds."""


def restart_controller(name: str, address: str | None, *, may_close_port: bool = False) -> Instance:
    """Restart the controller of instance *name* on the cluster at *address*; return the instance of the new one.

    With *may_close_port*, the port of a proxy may be closed until its successor listens.

    Raises:
        NotConnected: No instance of this name runs there.
        ConfigError: A node lacks this version, this version cannot read the checkpoint, or the port of a proxy cannot
            stay open. Nothing has changed.
        AuthenticationError, ConnectionError: As `start_instance`.
    """
    found = running_instance(name, address)
    if found is None:
        raise NotConnected(f"no instance {name!r} runs on this Ray cluster; correct --name, or --ray-address")
    _check_nodes(found, copies=not may_close_port and asyncio.run(_version_of(found)) < GIVING_VERSION)
    asyncio.run(_end_old_controller(found))
    return _new_controller(found)


def probe(version: str, name: str, generation: str, copies: bool) -> None:
    """Check in a process of a node that the node has *version*, and that this version reads the checkpoint.

    With *copies*, the listening sockets of the node's proxies must be copied, so check that this user may do so.

    Raises:
        ConfigError: It does not.
    """
    own = _own_version()
    if own != version:
        raise ConfigError(
            f"it has version {own} of serve_bridge, and this command has version {version}; {_install(version)}"
        )
    checkpoint = asyncio.run(Checkpoints(KVStore(generation), name).read())
    if copies and checkpoint is not None:
        node = ray.get_runtime_context().get_node_id()
        for port in sorted({port_of(each.url) for each in checkpoint.proxies if each.node == node}):
            check_copy(port)


def check_copy(port: int) -> None:
    """Check that this user may copy the socket of the proxy on *port*, which cannot give it.

    Raises:
        ConfigError: The user may not. The message has the remedies.
    """
    if not can_copy(port, PROXY_TITLE):
        raise ConfigError(
            f"its proxy has an earlier version, whose listening socket this user may not copy, so port {port} would "
            "refuse connections for a second or two; allow it for the time of the upgrade with `sysctl "
            "kernel.yama.ptrace_scope=0`, in a container with the capability SYS_PTRACE (Linux 5.6 or later), or "
            "accept the gap with `serve-bridge upgrade --allow-closed-port`"
        )


def _install(version: str) -> str:
    return f"install version {version} on every node of the cluster"


async def _version_of(instance: Instance) -> int:
    """Return the version of the wire that the running controller speaks."""
    key = instance.key
    connection = await dial_running(instance.controller, key, instance.generation, key.strongest(*OPERATORS))
    connection.close()
    return connection.version


def _own_version() -> str:
    return str(sys.modules["serve_bridge"].__version__)


def _check_nodes(instance: Instance, *, copies: bool) -> None:
    nodes: Any = ray.nodes()  # type: ignore[no-untyped-call]
    addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in nodes if node["Alive"]}
    # A variable of its own gives the task a new process. An idle worker may have imported an earlier version.
    fresh = {"env_vars": {"SERVE_BRIDGE_PROBE": secrets.token_hex(4)}}
    begun = begin_on(addresses, probe, _own_version(), instance.name, instance.generation, copies, runtime_env=fresh)
    for address, reference in zip(addresses.values(), begun, strict=True):
        try:
            ray.get(reference, timeout=PROBE_S)
        except GetTimeoutError:
            raise ConfigError(f"node {address} did not answer within {PROBE_S:g} s; nothing was changed") from None
        except RayError as error:
            cause = user_error(error)
            earlier = f"it has an earlier version of serve_bridge; {_install(_own_version())}"
            why = str(cause) if isinstance(cause, ConfigError) else earlier
            raise ConfigError(f"node {address} cannot be upgraded: {why}. Nothing was changed") from None


async def _end_old_controller(instance: Instance) -> None:
    """Let Ray end the process of the controller and start another one. Return once the old process has ended."""
    key = instance.key
    connection = await dial_running(instance.controller, key, instance.generation, key.strongest(*OPERATORS))
    actor: Any = ray.get_actor(controller_name(instance.name), namespace=NAMESPACE)
    await asyncio.to_thread(ray.kill, actor, no_restart=False)
    async with asyncio.timeout(START_S):
        while not connection.closed:  # noqa: ASYNC110  # connections have no event for their end
            await asyncio.sleep(LOOK_S)


def _new_controller(old: Instance) -> Instance:
    deadline = time.monotonic() + START_S
    while True:
        try:
            actor: Any = ray.get_actor(controller_name(old.name), namespace=NAMESPACE)
            found: Instance = ray.get(actor.start.remote(), timeout=START_S)
            return found
        except (RayActorError, ValueError) as error:
            if time.monotonic() > deadline:
                raise NotConnected(
                    f"the new controller of instance {old.name!r} has not started within {START_S:g} s: {error}"
                ) from None
        time.sleep(LOOK_S)
