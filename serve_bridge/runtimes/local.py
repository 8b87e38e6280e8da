"""The local runtime: controller, replicas and proxies as threads of this process, for tests and development.

It uses the same controller, router, data plane and replica as the Ray runtime, over the same sockets. Each process is a
thread with an event loop instead. Threads have two limits: a hanging replica is abandoned instead of killed, and
`os._exit` in user code ends the whole process.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from serve_bridge.config.http_options import HTTPOptions
from serve_bridge.config.network_options import NetworkOptions
from serve_bridge.controller.controller import Controller
from serve_bridge.controller.runtime import Store
from serve_bridge.errors import ConfigError
from serve_bridge.instance import membership
from serve_bridge.instance.directory_claim import claim_directory
from serve_bridge.instance.instance import Instance, new_generation
from serve_bridge.instance.key_files import key_of_start
from serve_bridge.instance.port_keeper import PortKeeper, socket_path
from serve_bridge.instance.process_facts import resident_bytes
from serve_bridge.instance.tls_files import warn_if_readable
from serve_bridge.process.extras import require_proxy
from serve_bridge.process.loop_thread import LoopThread
from serve_bridge.replica.replica import Replica
from serve_bridge.specs import InstanceSpec, ProxySpec, ReplicaSpec
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.keys import Key
from serve_bridge.wire.socket_files import socket_file

if TYPE_CHECKING:
    from serve_bridge.proxy.proxy import Proxy

NODE = "local"
CLOSE_S: Final = 1.0
"""Upper limit in seconds for the wait until a thread has closed its sockets. A hanging thread closes none."""


class MemoryStore:
    """A store in memory, for the life of this process."""

    most_bytes: int = sys.maxsize

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    async def put(self, key: str, value: bytes) -> None:
        """Store *value* under *key*."""
        self._values[key] = value

    async def get(self, key: str) -> bytes | None:
        """Return the value of *key*, or None."""
        return self._values.get(key)

    async def delete(self, prefix: str) -> None:
        """Delete every key that begins with *prefix*."""
        for key in [key for key in self._values if key.startswith(prefix)]:
            del self._values[key]


class _Process:
    """A replica or proxy, which runs on a thread of its own instead of in a process.

    Attributes:
        thread: The thread.
    """

    def __init__(self, name: str, process: Replica | Proxy, directory: str) -> None:
        self.thread = LoopThread(f"serve_bridge-{name}")
        self._process = process
        self._socket = socket_file(Path(directory), name)
        self._starting: asyncio.Task[None] | None = None

    async def start(self) -> Any:
        """Start it, and return what its own `start` returns."""
        return await asyncio.wrap_future(self.thread.submit(self._start))

    async def _start(self) -> Any:
        self._starting = asyncio.current_task()
        return await self._process.start()

    async def stop(self) -> None:
        """Close its connections, remove its socket and end its thread. A hanging thread stays behind."""
        ended = asyncio.wrap_future(self.thread.submit(self._end))
        self.thread.stop()
        # It must not listen any more when the instance removes its directory.
        await asyncio.wait([ended], timeout=CLOSE_S)
        with suppress(OSError):
            self._socket.unlink()

    async def _end(self) -> None:
        # A start that goes on after `close` would make sockets, files and threads that nothing closes.
        try:
            if self._starting is not None:
                self._starting.cancel()
                await asyncio.wait([self._starting])
        finally:
            self._process.close()


class LocalRuntime:
    """Launches replicas and proxies as threads."""

    def __init__(self, on_end: Callable[[], None]) -> None:
        """Call *on_end* after the controller has shut down."""
        self.store: Store = MemoryStore()
        self._on_end = on_end
        self._running: dict[str, _Process] = {}
        self._keeper: PortKeeper | None = None

    async def launch_replica(self, spec: ReplicaSpec, key: Key, options: dict[str, Any]) -> SocketAddress:
        """Start a replica on a thread. Ray's *options* have no effect here."""
        address: SocketAddress = await self._launch(spec.replica, Replica(spec, key), spec.directory)
        return address

    async def launch_proxy(self, spec: ProxySpec, key: Key) -> tuple[SocketAddress, str]:
        """Start a proxy on a thread."""
        require_proxy()
        from serve_bridge.proxy.proxy import Proxy  # late: the HTTP server is an extra

        where: tuple[SocketAddress, str] = await self._launch(spec.proxy, Proxy(spec, key), spec.directory)
        return where

    async def keep_port(self, node: str, directory: str) -> bool:
        """Keep the port of the proxies open, on the thread of the controller."""
        if self._keeper is None:
            self._keeper = PortKeeper(socket_path(Path(directory), node))
        return self._keeper.open()

    async def copy_port(self, node: str, port: int) -> bool:
        """Return False: every proxy of this process can give its port."""
        return False

    async def release_port(self, node: str) -> None:
        """Keep the port no longer."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.close()

    async def _launch(self, name: str, process: Replica | Proxy, directory: str) -> Any:
        self._running[name] = running = _Process(name, process, directory)
        return await running.start()

    async def stop(self, name: str) -> None:
        """Close the connections of *name*, remove its socket and end its thread. A hanging thread stays behind."""
        found = self._running.pop(name, None)
        if found is not None:
            await found.stop()

    async def has_ended(self, name: str) -> bool:
        """Return whether the thread of *name* has ended."""
        return name not in self._running

    async def explain_end(self, name: str) -> str:
        """Return "": a replica has no process to end."""
        return ""

    async def used_s(self, name: str) -> float | None:
        """Return the processor time of the thread of *name*, in seconds; None if it has ended."""
        found = self._running.get(name)
        return None if found is None else found.thread.used_s()

    async def explain_wait(self, name: str, options: dict[str, Any]) -> str:
        """Return "": a thread waits for no resources."""
        return ""

    async def nodes(self) -> dict[str, str]:
        """Return the only node."""
        return {NODE: "127.0.0.1"}

    async def token_mode(self) -> str:
        """Return "": there is no Ray."""
        return ""

    async def replicas_bytes(self) -> int | None:
        """Return the memory of this process, in which the replicas run."""
        return resident_bytes(Path("/proc/self"))

    async def update_files(self, instance: Instance) -> None:
        """Do nothing: there is one node."""

    async def remove_files(self, instance: Instance) -> None:
        """Do nothing: there is one node."""

    async def end(self) -> None:
        """End the thread of the controller."""
        self._on_end()


_names: set[str] = set()
_lock = threading.Lock()


def start_instance(
    name: str, http: HTTPOptions, network: NetworkOptions, state: str | None = None, *, fresh: bool = False
) -> tuple[Instance, Callable[[], None]]:
    """Start an instance in this process; return it, and a function to call after its shutdown.

    It keeps its state in the directory *state*; None: nowhere. With *fresh* it begins empty.

    Raises:
        ConfigError: An instance of this name runs in this process, or its keys cannot be kept.
        OSError, ValueError: The controller or the proxy cannot listen at its address; nothing of the instance is left.
    """
    with _lock:
        if name in _names:
            raise ConfigError(
                f"instance {name!r} runs in this process already; connect() joins it, or use another name"
            )
        _names.add(name)
    try:
        generation = new_generation()
        with (
            claim_directory(name, generation) as claim,
            key_of_start(name, network, kept=False, state=state) as (key, kept),
        ):
            spec = InstanceSpec(
                name=name,
                generation=generation,
                runtime="local",
                directory=str(claim.directory),
                detached=False,
                tcp_host=network.listen_host,
                http=http,
                state=state,
                fresh=fresh,
                network=network,
                keeps_keys=kept,
            )
            warn_if_readable(name, spec.tcp_host, network.tls(name))
            return _start_in(spec, key)
    except BaseException:
        _names.discard(name)
        raise


def _start_in(spec: InstanceSpec, key: Key) -> tuple[Instance, Callable[[], None]]:
    thread = LoopThread("serve_bridge-controller")

    def stopped() -> None:  # the client that ends it may be in another process
        _names.discard(spec.name)
        membership.leave(spec.generation)
        thread.stop()

    controller = Controller(spec, key, LocalRuntime(stopped))
    try:
        instance = thread.submit(controller.start).result()
    except BaseException:
        thread.stop()
        thread.join(1.0)
        raise
    return instance, lambda: thread.join(5.0)
