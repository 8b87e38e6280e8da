"""Replicas and proxies as Ray actors, which are shells around plain classes; names and options of actors."""

from __future__ import annotations

import gc
import logging
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from serve_bridge.instance.directories import directory_here
from serve_bridge.instance.port_keeper import PortKeeper, socket_path
from serve_bridge.process.class_register import share_class_register
from serve_bridge.process.extras import require_proxy
from serve_bridge.process.loop_thread import thread_used_s
from serve_bridge.runtimes.ray.exits import note_exits, note_key
from serve_bridge.runtimes.ray.heap import keep_heap
from serve_bridge.specs import ProxySpec, ReplicaSpec
from serve_bridge.wire import calls_answered
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.directory_lock import Claim
from serve_bridge.wire.keys import Key

share_class_register()

NAMESPACE: Final = "serve_bridge"
KV_NAMESPACE: Final = b"serve_bridge"
PULSE: Final = "pulse"
"""Concurrency group of the calls to a proxy with a busy loop; Ray runs them on another loop."""
PROXY_TITLE: Final = "ray::ProxyActor"
"""Begin of the title that Ray gives to the process of a proxy."""
MAX_CONCURRENCY: Final = 100_000
"""Upper limit for the calls in Ray's queue of an actor. The replica itself has a lower limit."""


def actor_name(generation: str, name: str) -> str:
    """Return the Ray name of an actor of one instance."""
    return f"{NAMESPACE}:{generation}:{name}"


def controller_name(name: str) -> str:
    """Return the Ray name of the controller of instance *name*. It is unique in a cluster for each user."""
    return f"{NAMESPACE}:{os.geteuid()}:{name}:controller"


def engine_options(node: str | None, **options: Any) -> dict[str, Any]:
    """Return the options of an actor of serve_bridge, on *node* if it lives; None: on any node."""
    engine = {
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "num_cpus": 0,
        "max_restarts": 0,
        "max_task_retries": 0,
        "max_concurrency": MAX_CONCURRENCY,
    }
    if node is not None:
        # Ray ignores the strategy for an actor without any resource, and places it on a random node.
        engine["memory"] = 1
        engine["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=True)
    return engine | options


def new_actor(cls: type, options: dict[str, Any], *args: Any, groups: dict[str, int] | None = None) -> Any:
    """Create an actor and return its handle, with the methods of *cls*.

    Each of *groups* has its own loop, and a limit for its calls at a time.
    """
    decorate: Any = ray.remote
    remote = decorate(concurrency_groups=groups)(cls) if groups else decorate(cls)
    return remote.options(**options).remote(*args)


class ReplicaActor:
    """A replica in its process."""

    def __init__(self, spec: ReplicaSpec, key: Key, node: str) -> None:
        """Prepare the process for *spec*, which was made on *node*."""
        from serve_bridge.replica.replica import (
            Replica,
        )  # late: the controller does not need it

        log_to_stderr()
        spec = replace(spec, tcp_host=own_host(spec.tcp_host, node), directory=own_directory(spec.directory, node))
        self._replica = Replica(spec, key, has_process=True)
        note_exits(note_key(spec.instance.generation, spec.replica), KV_NAMESPACE)  # before user code is loaded

    async def place(self) -> tuple[str, int]:
        """Return the node and the process of this replica."""
        return own_node(), os.getpid()

    async def start(self) -> SocketAddress:
        """Construct the user code and listen; return the address."""
        keep_heap()
        gc.collect()
        gc.freeze()  # before user code, whose objects must remain collectable: `reconfigure` may replace a model
        return await self._replica.start()

    async def call(self, head: bytes, data: Any = None, /, **kwargs: Any) -> Any:
        """Serve one `handle.remote` call."""
        return await self._replica.ray_calls.call(calls_answered.decode_call(head), data, kwargs)


class ProxyActor:
    """A proxy in its process."""

    def __init__(self, spec: ProxySpec, key: Key, node: str) -> None:
        """Prepare the process for *spec*, which was made on *node*."""
        log_to_stderr()
        self._spec, self._key, self._node = spec, key, node

    async def start(self) -> tuple[SocketAddress, str]:
        """Listen; return where.

        Raises:
            ImportError: This process cannot run a proxy. In the constructor Ray would report only that the actor died.
        """
        self._loop_thread = threading.current_thread()
        require_proxy()
        from serve_bridge.proxy.proxy import (
            Proxy,
        )  # late: other actors do not need it, and the HTTP server is an extra

        spec = self._spec
        host, directory = own_host(spec.tcp_host, self._node), own_directory(spec.directory, self._node)
        spec = replace(spec, tcp_host=host, directory=directory)
        self._proxy = Proxy(spec, self._key)
        keep_heap()
        where = await self._proxy.start()
        _calm_collector()
        return where

    async def used_s(self) -> float | None:
        """Return the processor time of the proxy's loop, in seconds. Ray runs this on another loop."""
        return thread_used_s(self._loop_thread)


class PortKeeperActor:
    """Keeps the port of the proxies on its node open; the controller does so on its own node."""

    def __init__(self, directory: str, node: str) -> None:
        """Serve the proxies in *directory*, which was chosen on *node*."""
        log_to_stderr()
        here = Path(own_directory(directory, node))
        self._claim = Claim(here)
        self._keeper = PortKeeper(socket_path(here, own_node()))

    async def open(self) -> bool:
        """Serve. Return whether this actor holds the listening socket."""
        return self._keeper.open()

    async def copy(self, port: int) -> bool:
        """Copy the listening socket of a proxy that cannot give one. Return whether this actor holds one now."""
        return await self._keeper.copy(port, PROXY_TITLE)


def log_to_stderr() -> None:
    """Log to stderr in an actor. Ray keeps its stderr in files."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("serve_bridge")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)


def _calm_collector() -> None:
    """Let the garbage collector run less often, and skip the objects of the start.

    Reference counting frees nearly all objects of a request. With the default thresholds, a proxy spends an eighth of
    its time in the collector.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def own_host(tcp_host: str | None, node: str) -> str | None:
    """Return the address of this node to listen on: *tcp_host* on *node*. None if no other host needs one."""
    return tcp_host if tcp_host is None or node == own_node() else node_ip()


def own_node() -> str:
    """Return the id of the node of this process."""
    return str(ray.get_runtime_context().get_node_id())


def own_directory(directory: str, node: str) -> str:
    """Return the directory of the sockets of this process: *directory* on *node*, or a similar one on this node."""
    return directory if node == own_node() else str(directory_here(Path(directory).name))


def node_ip() -> str:
    """Return the address of the node of this process in its cluster."""
    util: Any = ray.util  # its functions have no types
    return str(util.get_node_ip_address())


def user_error(error: BaseException) -> BaseException:
    """Return the error that an actor raised, without the wrapper of Ray."""
    return error.cause if isinstance(error, RayTaskError) and isinstance(error.cause, BaseException) else error
