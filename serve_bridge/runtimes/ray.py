"""The Ray runtime: controller, replicas and proxies as detached actors. The only code that imports Ray.

Rule 1: Ray places, starts and ends processes; no request travels over it but those of `handle.remote`.
Rule 2: actors are detached, so that replicas outlive a controller that Ray restarts; they end because the instance ends
        them: at `shutdown`, or when the process that started a non-detached instance lets go of its lease.
Rule 3: engine actors ask for 0 CPUs and never restart but for the controller; tasks are never retried by Ray.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import msgspec

try:
    import ray
except ImportError as error:
    raise ImportError("runtime='ray' needs Ray: pip install 'serve-bridge[ray]'") from error
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.experimental import internal_kv
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from serve_bridge.config import HTTPOptions, is_loopback
from serve_bridge.controller import Controller
from serve_bridge.errors import (
    AuthenticationError,
    BackendOverloaded,
    BackendStartError,
    ConfigError,
    NotConnected,
    ServeBridgeError,
)
from serve_bridge.instance import Instance, make_directory, new_generation
from serve_bridge.lane import Lane
from serve_bridge.messages import BackendRoute, CallHead, ReplicaAddress
from serve_bridge.replica import Replica
from serve_bridge.replica_set import Slot
from serve_bridge.runtime import Store
from serve_bridge.shared_replicas import SharedReplicas
from serve_bridge.specs import ProxySpec, ReplicaSpec, Settings
from serve_bridge.wire import calls
from serve_bridge.wire.auth import Key, Role
from serve_bridge.wire.connection import CallerConnection, Lost
from serve_bridge.wire.sockets import dial

NAMESPACE: Final = "serve_bridge"
MAX_CONCURRENCY: Final = 100_000
"""Of Ray's own queue in front of an actor; the replica's admission is what limits."""
START_S: Final = 60.0
CONNECT_S: Final = 5.0
ASK_S: Final = 0.05
"""How old the account of a replica's calls may grow while more are made."""
ASK_TIMEOUT_S: Final = 2.0
_logger = logging.getLogger("serve_bridge.client")
_KV_NAMESPACE = b"serve_bridge"
_encode_head = msgspec.msgpack.Encoder().encode


def actor_name(generation: str, name: str) -> str:
    """Return the Ray name of an actor of one instance."""
    return f"{NAMESPACE}:{generation}:{name}"


def controller_name(name: str) -> str:
    """Return the Ray name of the controller of instance *name*: one per cluster and user."""
    return f"{NAMESPACE}:{os.geteuid()}:{name}:controller"


# Starting an instance


def start_instance(
    name: str, http: HTTPOptions, *, detached: bool, address: str | None
) -> tuple[Instance, Callable[[], None]]:
    """Start an instance on Ray; return how it is found, and what to call once it was shut down.

    Raises:
        ConfigError: An instance of that name runs on the cluster.
        OSError, ValueError: The proxy cannot listen where it should; nothing is left.
        ConnectionError: There is no cluster at *address*.
    """
    if ray.is_initialized():
        return _start_controller(name, http, detached=detached, shared=True)
    began = _join_cluster(address)
    if began and detached:
        _logger.warning("no Ray cluster ran, so the instance ends with this process; `ray start --head` begins one")
    try:
        instance, ended = _start_controller(name, http, detached=detached, shared=not began)
    except BaseException:
        ray.shutdown()
        raise

    def ended_too() -> None:
        ended()
        ray.shutdown()

    return instance, ended_too


def _join_cluster(address: str | None) -> bool:
    """Make this process a Ray driver; return whether that began a new cluster."""
    options: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "configure_logging": False}
    if address is None:
        address = os.environ.get("RAY_ADDRESS") or None
    with _kept_signal_handler():
        if address not in (None, "local"):
            _check_reachable(address)
            ray.init(address=address, **options)
            return False
        if address is None:
            with contextlib.suppress(ConnectionError):  # Ray's way to say that no cluster runs on this machine
                ray.init(address="auto", **options)
                return False
        ray.init(address="local", include_dashboard=False, **options)
        return True


def _check_reachable(address: str | None) -> None:
    """Raise ConnectionError at once if nothing listens at "host:port"; Ray itself would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        return  # "auto", "local" and "ray://...": Ray's to look for
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except OSError as error:
        raise ConnectionError(f"no Ray cluster answers at {address}: {error.strerror or error}") from None


@contextlib.contextmanager
def _kept_signal_handler() -> Iterator[None]:
    """Keep the process's SIGTERM handler, which `ray.init` replaces when called on the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start_controller(
    name: str, http: HTTPOptions, *, detached: bool, shared: bool
) -> tuple[Instance, Callable[[], None]]:
    generation = new_generation()
    host = _node_ip()
    node = ray.get_runtime_context().get_node_id()
    settings = Settings(
        name=name,
        generation=generation,
        runtime="ray",
        directory=str(make_directory(name, generation)),
        detached=detached,
        # A cluster that this process began has one node, and its unix sockets reach everybody.
        tcp_host=host if shared and not is_loopback(host) else None,
        http=http,
    )
    options = _options(node, name=controller_name(name), max_restarts=-1)
    try:
        controller = _actor(ControllerActor, options, settings, Key())
    except ValueError as error:
        os.rmdir(settings.directory)
        if "already" not in str(error) and "taken" not in str(error):
            raise
        raise ConfigError(
            f"instance {name!r} runs on this cluster already; connect() joins it, or use another name"
        ) from None
    try:
        instance: Instance = ray.get(controller.start.remote(), timeout=START_S)
    except BaseException as error:
        with contextlib.suppress(RayError):
            ray.kill(controller, no_restart=True)
        raise _user_error(error) from None

    return instance, lambda: _wait_until_gone(controller)


def _user_error(error: BaseException) -> BaseException:
    """Return what user code or the engine raised in an actor, without Ray's wrapping."""
    return error.cause if isinstance(error, RayTaskError) and isinstance(error.cause, BaseException) else error


def _wait_until_gone(actor: Any) -> None:
    deadline = time.monotonic() + 10
    # A call without a cluster would start one.
    while ray.is_initialized() and time.monotonic() < deadline:
        try:
            ray.get(actor.ping.remote(), timeout=1)
        except GetTimeoutError:
            continue
        except RayError:
            return
        time.sleep(0.02)


def _options(node: str | None, **options: Any) -> dict[str, Any]:
    """Return the options of an actor of the engine; *node* None: anywhere."""
    engine = {
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "num_cpus": 0,
        "max_restarts": 0,
        "max_task_retries": 0,
        "max_concurrency": MAX_CONCURRENCY,
    }
    if node is not None:
        engine["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=True)
    return engine | options


# Actors: each a shell around a plain class


class ControllerActor:
    """The controller in its process. Ray restarts it; it then recovers from its checkpoint by itself."""

    async def __init__(self, settings: Settings, key: Key) -> None:  # type: ignore[misc]  # Ray awaits it
        self._controller = Controller(settings, key, RayRuntime(settings))
        self._instance: Instance | None = None
        if await KVStore(settings.generation).get("checkpoint") is not None:
            self._instance = await self._controller.start()

    async def start(self) -> Instance:
        """Start, unless that is done, and return how the instance is found."""
        if self._instance is None:
            self._instance = await self._controller.start()
        return self._instance

    async def ping(self) -> None:
        """Answer while the controller lives."""


class ReplicaActor:
    """A replica in its process."""

    def __init__(self, spec: ReplicaSpec, key: Key) -> None:
        spec = replace(spec, tcp_host=_own_host(spec.tcp_host))
        self._replica = Replica(spec, key)

    async def start(self) -> ReplicaAddress:
        """Construct the user's code and listen; return where."""
        address = await self._replica.start()
        gc.collect()
        gc.freeze()  # a model's objects live as long as the replica; user code's own garbage is looked for as ever
        return address

    async def call(self, head: bytes, data: Any = None, /, **kwargs: Any) -> Any:
        """Serve one `handle.remote` call."""
        return await self._replica.call(calls.decode_call(head), data, kwargs)


class ProxyActor:
    """A proxy in its process."""

    def __init__(self, spec: ProxySpec, key: Key) -> None:
        from serve_bridge.proxy.server import Proxy  # late: the HTTP server is an extra

        self._proxy = Proxy(replace(spec, tcp_host=_own_host(spec.tcp_host)), key)

    async def start(self) -> tuple[ReplicaAddress, str]:
        """Listen; return where."""
        where = await self._proxy.start()
        _calm_collector()
        return where


def _calm_collector() -> None:
    """Let the garbage collector look less often at what a request leaves, and never at what start-up left.

    Reference counting frees nearly all of it; at the default thresholds an eighth of a proxy's time goes to looking.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def _own_host(tcp_host: str | None) -> str | None:
    return None if tcp_host is None else _node_ip()


def _node_ip() -> str:
    util: Any = ray.util  # its functions have no types
    return str(util.get_node_ip_address())


def _actor(cls: type, options: dict[str, Any], *args: Any) -> Any:
    """Create an actor and return its handle, whose methods Ray makes up at run time."""
    remote: Any = ray.remote(cls)
    return remote.options(**options).remote(*args)


# The runtime


class KVStore:
    """The controller's checkpoint in the key-value store of Ray's GCS; every key carries the generation."""

    def __init__(self, generation: str) -> None:
        self._prefix = f"{generation}/"

    async def put(self, key: str, value: bytes) -> None:
        """Keep *value*."""
        await asyncio.to_thread(
            internal_kv._internal_kv_put, self._key(key), value, overwrite=True, namespace=_KV_NAMESPACE
        )

    async def get(self, key: str) -> bytes | None:
        """Return what is kept."""
        found: bytes | None = await asyncio.to_thread(
            internal_kv._internal_kv_get, self._key(key), namespace=_KV_NAMESPACE
        )
        return found

    async def delete(self, prefix: str) -> None:
        """Forget what begins with *prefix*."""
        await asyncio.to_thread(
            internal_kv._internal_kv_del, self._key(prefix), del_by_prefix=True, namespace=_KV_NAMESPACE
        )

    def _key(self, key: str) -> bytes:
        return (self._prefix + key).encode()


class RayRuntime:
    """Launches replicas and proxies as actors; lives in the controller."""

    def __init__(self, settings: Settings) -> None:
        self.store: Store = KVStore(settings.generation)
        self._settings = settings
        self._own_node = ray.get_runtime_context().get_node_id()
        self._actors: dict[str, Any] = {}

    async def launch_replica(self, spec: ReplicaSpec, key: Key, options: dict[str, Any]) -> ReplicaAddress:
        """Start a replica as an actor with the user's *options*."""
        name = actor_name(spec.generation, spec.replica)
        engine = _options(None, name=name)
        del engine["num_cpus"]  # the user's replicas count as Ray's actors do by default
        try:
            actor = _actor(ReplicaActor, engine | options, spec, key)
            self._actors[spec.replica] = actor
            address: ReplicaAddress = await actor.start.remote()
        except RayTaskError as error:
            cause = _user_error(error)
            if isinstance(cause, BackendStartError):
                raise cause from None
            raise BackendStartError(spec.backend, f"{type(cause).__name__}: {cause}", str(error)) from None
        except RayActorError as error:
            raise BackendStartError(spec.backend, f"its process ended while it started: {_short(error)}") from None
        except (ValueError, TypeError) as error:
            raise ConfigError(f"ray_actor_options: {error}") from None
        return address

    async def launch_proxy(self, spec: ProxySpec, key: Key) -> tuple[ReplicaAddress, str]:
        """Start a proxy as an actor on its node."""
        options = _options(None, name=actor_name(spec.generation, spec.proxy))
        # Not "soft": when its node has just gone, it would take another node's port.
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(spec.node, soft=False)
        actor = _actor(ProxyActor, options, spec, key)
        self._actors[spec.proxy] = actor
        try:
            address, url = await actor.start.remote()
        except RayTaskError as error:
            raise _user_error(error) from None
        except RayActorError as error:
            raise OSError(f"the proxy ended while it started: {_short(error)}") from None
        return address, url

    async def stop(self, name: str) -> None:
        """Kill the actor *name*, if it lives."""
        await asyncio.to_thread(self._kill, name)

    def _kill(self, name: str) -> None:
        actor = self._actors.pop(name, None)
        try:
            if actor is None:
                actor = ray.get_actor(actor_name(self._settings.generation, name), namespace=NAMESPACE)
            ray.kill(actor, no_restart=True)
        except (ValueError, RayError):
            pass  # it has gone

    async def explain_wait(self, options: dict[str, Any]) -> str:
        """Return what was asked and what there is."""
        asked = {key: options[key] for key in ("num_cpus", "num_gpus", "memory", "resources") if options.get(key)}
        if not asked:
            return ""
        present = await asyncio.to_thread(ray.cluster_resources)
        shown = {k: v for k, v in sorted(present.items()) if not k.startswith(("node:", "object_store"))}
        return f"asked for {asked}, the cluster has {shown}"

    async def nodes(self) -> list[str]:
        """Return the ids of the nodes that are alive, the controller's own first."""
        nodes: Any = await asyncio.to_thread(ray.nodes)
        alive = [node["NodeID"] for node in nodes if node["Alive"]]
        return sorted(alive, key=lambda node: node != self._own_node)

    async def end(self) -> None:
        """Kill the controller's own actor."""
        name = controller_name(self._settings.name)
        actor = await asyncio.to_thread(ray.get_actor, name, namespace=NAMESPACE)
        ray.kill(actor, no_restart=True)


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[-2:]) if lines else type(error).__name__


# Calls that return an ObjectRef


class RaySubmitter:
    """Makes `handle.remote` calls; one per client and process, used by any thread."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._id = secrets.token_hex(8)
        # A call waits inside its replica, in order; how many may is what a router lets run there and wait here.
        self._replicas: SharedReplicas[_Actor] = SharedReplicas(_Actor, limit=_most_calls, unlink=_Actor.disconnect)
        self._asking: set[asyncio.Task[None]] = set()

    def submit(
        self, lane: Lane, endpoint: str, shard_key: str | None, head: CallHead, data: Any, kwargs: Mapping[str, Any]
    ) -> Any:
        """Choose a backend and a replica and call it; return the ObjectRef.

        Raises:
            EndpointNotFound: There is no such endpoint.
            BackendOverloaded: No replica is ready, or too many calls wait already.
        """
        backend, shadows = lane.router.choose(endpoint, shard_key)
        encoded = _encode_head(msgspec.structs.replace(head, request_id=self._id))
        for shadow in shadows:
            with contextlib.suppress(BackendOverloaded):
                self._call(lane, shadow, encoded, data, kwargs)
        return self._call(lane, backend, encoded, data, kwargs)

    def _call(self, lane: Lane, backend: str, head: bytes, data: Any, kwargs: Mapping[str, Any]) -> Any:
        table = lane.router.table
        assert table is not None
        slot = self._replicas.acquire(table, backend)
        if slot is None:  # by what was last heard; now it has to be known
            asyncio.run_coroutine_threadsafe(self._ask_all(backend), lane.loop).result()
            slot = self._replicas.acquire(table, backend)
        if slot is None:
            raise BackendOverloaded(
                f"backend {backend!r} has no ready replica, or max_queued_queries calls of this process wait for one"
            )
        actor = slot.link
        try:
            method = actor.method(self._instance.generation)
            reference = method.remote(head, data, **kwargs)
        except BaseException:
            self._replicas.release(backend, slot, slot.load)
            raise
        if time.monotonic() - actor.asked > ASK_S:
            actor.asked = time.monotonic()
            lane.loop.call_soon_threadsafe(self._ask_soon, backend, slot)
        return reference

    def close(self) -> None:
        """Let go of the replicas; calls that were made go on."""
        self._replicas.close()

    # Ray could tell when a call is done, but would rebuild its result a second time for that. The replicas know too.

    def _ask_soon(self, backend: str, slot: Slot[_Actor]) -> None:
        asking = asyncio.get_running_loop().create_task(self._ask(backend, slot))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)

    async def _ask_all(self, backend: str) -> None:
        await asyncio.gather(*(self._ask(backend, slot) for slot in self._replicas.slots(backend)))

    async def _ask(self, backend: str, slot: Slot[_Actor]) -> None:
        """Ask the replica of *slot* how many calls of this process it has done; on the lane's loop."""
        actor = slot.link
        try:
            connection = await actor.connected(self._instance)
            count, load = await calls.control(connection, "@completed", self._id, timeout_s=ASK_TIMEOUT_S)
        except (Lost, TimeoutError, AuthenticationError, ServeBridgeError) as error:
            _logger.info("replica %s does not tell what it has done: %s", slot.name, error or type(error).__name__)
            return
        if count > actor.done:
            self._replicas.settle(backend, slot, count - actor.done, load)
            actor.done = count


class _Actor:
    """A replica as an actor; looked up when it is first called.

    Attributes:
        done: Calls of this process that it has done.
        asked: When it was last asked for that.
    """

    __slots__ = ("_connection", "_dialling", "_method", "address", "asked", "done")

    def __init__(self, address: ReplicaAddress) -> None:
        self.address = address
        self.asked = 0.0
        self.done = 0
        self._connection: CallerConnection | None = None
        self._dialling = asyncio.Lock()
        self._method: Any = None

    async def connected(self, instance: Instance) -> CallerConnection:
        """Return a connection on the running loop.

        Raises:
            Lost, AuthenticationError: There is none to be had.
        """
        async with self._dialling:
            if self._connection is None or not self._connection.usable:
                self._connection = await dial(self.address, instance.key, instance.generation, Role.PYTHON)
            return self._connection

    def disconnect(self) -> None:
        """Close the connection, if there is one; from any thread."""
        if self._connection is not None:
            self._connection.close_threadsafe()

    def method(self, generation: str) -> Any:
        if self._method is None:
            name = actor_name(generation, self.address.replica)
            try:
                self._method = ray.get_actor(name, namespace=NAMESPACE).call
            except ValueError:
                raise NotConnected(
                    f"replica {self.address.replica} is no actor of the Ray cluster that this process uses: it has "
                    "just ended, or its instance runs without Ray or on another cluster; use handle.call()"
                ) from None
        return self._method


def _most_calls(route: BackendRoute) -> int:
    """Return how many calls of this process one replica may have, so that all have `max_queued_queries` waiting."""
    return route.max_concurrent_queries + -(-route.max_queued_queries // max(1, len(route.replicas)))
