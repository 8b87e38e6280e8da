"""The runtime of the controller on Ray: it launches actors, and stores the checkpoint in Ray's GCS."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError, RuntimeEnvSetupError
from ray.experimental import internal_kv
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from serve_bridge.controller.runtime import Store
from serve_bridge.errors import BackendStartError, ConfigError, ControlPlaneLost
from serve_bridge.instance.instance import Instance
from serve_bridge.instance.port_keeper import PortKeeper, socket_path
from serve_bridge.process.engine_threads import on_engine_thread
from serve_bridge.runtimes.ray import node_files
from serve_bridge.runtimes.ray.actors import (
    KV_NAMESPACE,
    NAMESPACE,
    PROXY_TITLE,
    PULSE,
    PortKeeperActor,
    ProxyActor,
    ReplicaActor,
    actor_name,
    controller_name,
    engine_options,
    new_actor,
    own_node,
    user_error,
)
from serve_bridge.runtimes.ray.control_plane import ControlPlane
from serve_bridge.runtimes.ray.exits import described, end_of, note_key, watched
from serve_bridge.runtimes.ray.node_facts import replicas_bytes, token_mode
from serve_bridge.specs import InstanceSpec, ProxySpec, ReplicaSpec
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.keys import Key
from serve_bridge.wire.socket_files import socket_file

_logger = logging.getLogger("serve_bridge.controller")

ANSWER_S: Final = 5.0
"""Upper limit for an answer of Ray about an actor, in seconds."""
_EXIT_CODE: Final = re.compile(r"[Ee]xit code:? (\d+)")
"""The exit code of a worker in an error of Ray."""


class KVStore:
    """The store of the checkpoint: the key-value store of Ray's GCS. Every key begins with the generation."""

    most_bytes = (512 << 20) - (64 << 10)
    """Ray's limit for one message, less the space for its other fields, in bytes."""

    def __init__(self, generation: str, plane: ControlPlane | None = None) -> None:
        self._prefix = f"{generation}/"
        self._plane = plane or ControlPlane()

    async def put(self, key: str, value: bytes) -> None:
        """Store *value* under *key*."""
        await self._plane.write(
            internal_kv._internal_kv_put, self._key(key), value, overwrite=True, namespace=KV_NAMESPACE
        )

    async def get(self, key: str) -> bytes | None:
        """Return the value of *key*, or None."""
        found: bytes | None = await self._plane.call(
            internal_kv._internal_kv_get, self._key(key), namespace=KV_NAMESPACE
        )
        return found

    async def delete(self, prefix: str) -> None:
        """Delete every key that begins with *prefix*."""
        await self._plane.write(
            internal_kv._internal_kv_del, self._key(prefix), del_by_prefix=True, namespace=KV_NAMESPACE
        )

    def _key(self, key: str) -> bytes:
        return (self._prefix + key).encode()


class RayRuntime:
    """Launches replicas and proxies as actors, for the controller of its process."""

    def __init__(self, spec: InstanceSpec) -> None:
        self._plane = ControlPlane()
        self.store: Store = KVStore(spec.generation, self._plane)
        self._spec = spec
        self._own_node = own_node()
        self._keeper: PortKeeper | None = None
        self._actors: dict[str, Any] = {}
        self._placed: dict[str, Any] = {}
        self._watches: dict[str, int] = {}

    async def launch_replica(self, spec: ReplicaSpec, key: Key, options: dict[str, Any]) -> SocketAddress:
        """Start a replica as an actor with the user's *options*."""
        name = actor_name(self._spec.generation, spec.replica)
        engine = engine_options(None, name=name)
        del engine["num_cpus"]  # Ray's default for actors applies to replicas
        try:
            actor = await self._plane.write(new_actor, ReplicaActor, engine | options, spec, key, self._own_node)
            self._actors[spec.replica] = actor
            self._placed[spec.replica] = actor.place.remote()
            node, process = await self._placed[spec.replica]
            if node == self._own_node and (watch := watched(process)) is not None:
                self._watches[spec.replica] = watch
            address: SocketAddress = await actor.start.remote()
        except RayTaskError as error:
            cause = user_error(error)
            if isinstance(cause, BackendStartError):
                raise cause from None
            raise BackendStartError(spec.backend, f"{type(cause).__name__}: {cause}", str(error)) from None
        except RayActorError as error:
            why = await self.explain_end(spec.replica) or _short(error)
            raise BackendStartError(spec.backend, f"its process ended while it started: {why}") from None
        except RuntimeEnvSetupError as error:
            reason = f"Ray cannot make the runtime_env of its ray_actor_options: {_last_line(error)}"
            raise BackendStartError(spec.backend, reason, str(error)) from None
        except RayError as error:
            reason = f"Ray cannot start its process: {type(error).__name__}: {_short(error)}"
            raise BackendStartError(spec.backend, reason, str(error)) from None
        except (ValueError, TypeError) as error:
            raise ConfigError(f"ray_actor_options: {error}") from None
        return address

    async def launch_proxy(self, spec: ProxySpec, key: Key) -> tuple[SocketAddress, str]:
        """Start a proxy as an actor on its node."""
        options = engine_options(None, name=actor_name(spec.generation, spec.proxy))
        # Not soft: if its node has just gone, the proxy would take the port on another node.
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(spec.node, soft=False)
        actor = await self._plane.write(new_actor, ProxyActor, options, spec, key, self._own_node, groups={PULSE: 1})
        self._actors[spec.proxy] = actor
        try:
            address, url = await actor.start.remote()
        except RayTaskError as error:
            raise user_error(error) from None
        except RayActorError as error:
            raise OSError(f"the proxy ended while it started: {_short(error)}") from None
        return address, url

    async def keep_port(self, node: str, directory: str) -> bool:
        """Keep the port on *node* open: on the controller's node in this process, elsewhere in an actor."""
        if node == self._own_node:
            if self._keeper is None:
                self._keeper = PortKeeper(socket_path(Path(directory), node))
            return self._keeper.open()
        name = _keeper_name(node)
        if name not in self._actors:
            options = engine_options(None, name=actor_name(self._spec.generation, name), get_if_exists=True)
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)
            self._actors[name] = await self._plane.write(new_actor, PortKeeperActor, options, directory, self._own_node)
        try:
            is_held: bool = await self._actors[name].open.remote()
        except RayActorError:
            self._actors.pop(name, None)
            raise
        return is_held

    async def copy_port(self, node: str, port: int) -> bool:
        """Let the keeper on *node* copy the socket of a proxy on *port*. Return whether the keeper holds one now."""
        if node == self._own_node:
            return self._keeper is not None and await self._keeper.copy(port, PROXY_TITLE)
        actor = self._actors.get(_keeper_name(node))
        return actor is not None and bool(await actor.copy.remote(port))

    async def release_port(self, node: str) -> None:
        """End what keeps the port on *node* open."""
        if node == self._own_node:
            keeper, self._keeper = self._keeper, None
            if keeper is not None:
                keeper.close()
        # An actor may have kept the port of this node too, for a controller on another node.
        await self.stop(_keeper_name(node))

    async def stop(self, name: str) -> None:
        """Kill the actor *name*, if it runs, and remove its socket on this node.

        Without Ray's control plane the actor ends once that is back.
        """
        try:
            await self._plane.insist(self._kill, name)
        except ControlPlaneLost as error:
            _logger.warning("%s cannot be ended yet: %s", name, error)
            return
        with suppress(OSError):
            socket_file(Path(self._spec.directory), name).unlink()

    async def explain_end(self, name: str) -> str:
        """Return how the process of replica *name* ended, if the process itself, Ray or the kernel knows."""
        found = ""
        if (watch := self._watches.get(name)) is not None:
            found = await end_of(watch)
        if not found:
            return await self._noted_end(name) or await self._end_by_ray(name)
        if found.startswith("exit code") and await self._end_by_ray(name) == "signal SIGTERM":
            return "signal SIGTERM"  # a worker of Ray catches it, and ends with a code
        return found

    async def _noted_end(self, name: str) -> str:
        key = note_key(self._spec.generation, name)
        with suppress(ControlPlaneLost, RayError):
            code = await self._plane.call(internal_kv._internal_kv_get, key, namespace=KV_NAMESPACE)
            await self._plane.call(internal_kv._internal_kv_del, key, namespace=KV_NAMESPACE)
            return described(int(code)) if code else ""
        return ""

    async def _end_by_ray(self, name: str) -> str:
        actor = self._actors.get(name)
        if actor is None:
            return ""
        try:
            async with asyncio.timeout(ANSWER_S):
                await actor.place.remote()
        except RayActorError as error:
            text = str(error)
            if "SIGTERM" in text:
                return "signal SIGTERM"
            code = _EXIT_CODE.search(text)
            if code is not None:
                return described(int(code[1]))
            if "connection error code 2" in text:
                return "a signal such as SIGKILL, which the kernel sends when memory runs out, or a crash"
        except (RayError, TimeoutError):
            pass
        return ""

    async def has_ended(self, name: str) -> bool:
        """Return whether the actor *name* has ended, according to Ray. The loss of its node is an end too."""
        try:
            await self._plane.call(self._find, name)
        except ValueError:
            return True
        except (RayError, ControlPlaneLost):  # Ray's control plane does not answer
            return False
        return False

    async def used_s(self, name: str) -> float | None:
        """Return the processor time of the loop of proxy *name*, in seconds; None if the proxy does not answer."""
        try:
            if name not in self._actors:  # a former controller started it
                self._actors[name] = await self._plane.call(self._find, name)
            used_s: float | None = await self._actors[name].used_s.options(concurrency_group=PULSE).remote()
        except (ValueError, RayError, ControlPlaneLost):
            return None
        return used_s

    def _find(self, name: str) -> Any:
        return ray.get_actor(actor_name(self._spec.generation, name), namespace=NAMESPACE)

    def _kill(self, name: str) -> None:
        actor = self._actors.pop(name, None)
        self._placed.pop(name, None)
        if (watch := self._watches.pop(name, None)) is not None:
            os.close(watch)
        with suppress(ValueError, RayError):  # it has gone
            ray.kill(self._find(name) if actor is None else actor, no_restart=True)

    async def explain_wait(self, name: str, options: dict[str, Any]) -> str:
        """Return the requested resources of replica *name*, and the free and total ones; "" if it has a node."""
        placed = self._placed.get(name)
        if placed is not None and (await self._plane.call(ray.wait, [placed], timeout=0))[0]:
            return ""
        asked = _asked(options)
        exists = await self._plane.call(ray.cluster_resources)
        free = await self._plane.call(ray.available_resources)
        found = ", ".join(f"{free.get(name, 0):g} of {exists.get(name, 0):g} {name}" for name in asked)
        return f"it asks for {_amounts(asked)}; free in the cluster: {found}"

    async def nodes(self) -> dict[str, str]:
        """Return the addresses of the live nodes, by id, with the node of the controller first."""
        nodes: Any = await self._plane.call(ray.nodes)
        alive = {node["NodeID"]: node["NodeManagerAddress"] for node in nodes if node["Alive"]}
        return dict(sorted(alive.items(), key=lambda node: node[0] != self._own_node))

    async def token_mode(self) -> str:
        """Return "token" if Ray asks for the token of the cluster, "disabled" if it does not."""
        return token_mode()

    async def replicas_bytes(self) -> int | None:
        """Return the memory of all replicas on this machine that the node's raylet has started."""
        return await on_engine_thread(replicas_bytes, Path("/proc"))

    async def update_files(self, instance: Instance) -> None:
        """Write the address of the controller into the files of *instance* on other nodes."""
        await node_files.update_files(instance, await self._other_nodes())

    async def remove_files(self, instance: Instance) -> None:
        """Remove the files and sockets of *instance* on other nodes."""
        await node_files.remove_files(instance, await self._other_nodes())

    async def _other_nodes(self) -> list[str]:
        return [node for node in await self.nodes() if node != self._own_node]

    async def end(self) -> None:
        """Kill the actor of the controller."""
        await self._plane.insist(self._end)

    def _end(self) -> None:
        ray.kill(ray.get_actor(controller_name(self._spec.name), namespace=NAMESPACE), no_restart=True)


def _keeper_name(node: str) -> str:
    return f"port-keeper-{node}"


def _asked(options: Mapping[str, Any]) -> dict[str, float]:
    """Return the resources for the placement of an actor with *options*, by their names in Ray."""
    named = {"CPU": options.get("num_cpus"), "GPU": options.get("num_gpus"), "memory": options.get("memory")}
    named.update(options.get("resources") or {})
    return {name: float(amount) for name, amount in named.items() if amount} or {"CPU": 1.0}  # Ray's own default


def _amounts(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())


def _last_line(error: BaseException) -> str:
    """Return the last line of the text of *error*. It has the reason, below the tracebacks of Ray."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[-2:]) if lines else type(error).__name__
