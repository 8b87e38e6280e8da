"""The replicas the controller runs: launched, watched, drained and ended.

Rule 1: a replica's state moves by `lifecycle.advance` only.
Rule 2: a replica that may still hold work is drained before it is ended; one that broke its connection is ended at once.
Rule 3: nothing here decides how many there should be; the controller does.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Final

from serve_bridge.config import BackendConfig
from serve_bridge.errors import AuthenticationError, BackendStartError, ServeBridgeError
from serve_bridge.lifecycle import ReplicaEvent, ReplicaState, advance
from serve_bridge.messages import ReplicaAddress
from serve_bridge.runtime import Runtime
from serve_bridge.specs import ReplicaSpec
from serve_bridge.wanted import Backend
from serve_bridge.wire import calls
from serve_bridge.wire.auth import Key, Role
from serve_bridge.wire.connection import CallerConnection, Lost
from serve_bridge.wire.sockets import dial

CONTROL_TIMEOUT_S: Final = 10.0

_logger = logging.getLogger("serve_bridge.controller")


class Replica:
    """One replica as the controller sees it."""

    def __init__(self, id: str, backend: str, revision: int, config: BackendConfig) -> None:
        self.id = id
        self.backend = backend
        self.revision = revision
        self.config = config
        self.state = ReplicaState.STARTING
        self.address: ReplicaAddress | None = None
        self.connection: CallerConnection | None = None
        self.probing: asyncio.Task[None] | None = None

    def take(self, event: ReplicaEvent) -> None:
        """Move on by *event*."""
        self.state = advance(self.state, event)

    async def control(self, operation: str, *args: object, timeout_s: float, **kwargs: object) -> object:
        """Ask the replica for *operation*.

        Raises:
            Lost: It has gone.
            TimeoutError: It did not answer in time.
        """
        if self.connection is None:
            raise Lost("no", f"replica {self.id} is not connected")
        return await calls.control(self.connection, operation, *args, timeout_s=timeout_s, **kwargs)


class Fleet:
    """The replicas of all backends.

    Attributes:
        replicas: Those that are not stopped, by id.
    """

    def __init__(
        self,
        runtime: Runtime,
        key: Key,
        *,
        generation: str,
        instance_file: str,
        directory: str,
        tcp_host: str | None,
        on_change: Callable[[str], None],
    ) -> None:
        """*on_change* is called with the backend's name when one of its replicas was lost or changed health."""
        self._runtime = runtime
        self._key = key
        self._generation = generation
        self._instance_file = instance_file
        self._directory = directory
        self._tcp_host = tcp_host
        self._on_change = on_change
        self._tasks: set[asyncio.Task[None]] = set()
        self.replicas: dict[str, Replica] = {}

    def of(self, backend: str, *states: ReplicaState) -> list[Replica]:
        """Return *backend*'s replicas that are in one of *states*."""
        return [r for r in self.replicas.values() if r.backend == backend and r.state in states]

    def ready(self, revisions: Mapping[str, int]) -> dict[str, tuple[ReplicaAddress, ...]]:
        """Return the addresses of the replicas that take requests, by backend; only of its wanted revision."""
        found: dict[str, tuple[ReplicaAddress, ...]] = {}
        for replica in self.replicas.values():
            current = revisions.get(replica.backend) == replica.revision
            if current and replica.state is ReplicaState.READY and replica.address is not None:
                found[replica.backend] = (*found.get(replica.backend, ()), replica.address)
        return found

    def plan(self, backend: Backend, count: int) -> list[Replica]:
        """Return *count* replicas to launch; their ids can be checkpointed before anything runs."""
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", backend.name)[:20]
        planned = []
        for _ in range(count):
            replica = Replica(f"{name}-{secrets.token_hex(3)}", backend.name, backend.revision, backend.resolved)
            self.replicas[replica.id] = replica
            planned.append(replica)
        return planned

    async def launch(self, backend: Backend, planned: list[Replica]) -> None:
        """Start the *planned* replicas; they are ready but not yet routed to. All or none.

        Raises:
            BackendStartError: One could not start in time; none of them is left.
        """
        started = await asyncio.gather(*(self._launch(backend, r) for r in planned), return_exceptions=True)
        errors = [error for error in started if isinstance(error, BaseException)]
        if errors:
            await self.abandon(planned)
            raise errors[0]

    async def _launch(self, backend: Backend, replica: Replica) -> None:
        config = backend.resolved
        spec = ReplicaSpec(
            replica=replica.id,
            backend=backend.name,
            generation=self._generation,
            instance_file=self._instance_file,
            directory=self._directory,
            tcp_host=self._tcp_host,
            code=backend.code,
            config=config,
        )
        options = backend.actor_options.open()
        try:
            async with asyncio.timeout(config.start_timeout_s):
                address = await self._runtime.launch_replica(spec, self._key, options)
                await self.adopt(replica, address)
                await replica.control("@check", timeout_s=config.start_timeout_s)
        except TimeoutError:
            why = f"it was not ready within start_timeout_s={config.start_timeout_s:g}"
            wait = await self._runtime.explain_wait(options)
            raise BackendStartError(backend.name, f"{why}; {wait}" if wait else why) from None
        except (Lost, AuthenticationError) as error:
            raise BackendStartError(backend.name, f"its process ended while it started: {error}") from None
        replica.take(ReplicaEvent.PROBED)
        replica.probing = self._spawn(self._probe(replica))

    async def adopt(self, replica: Replica, address: ReplicaAddress) -> None:
        """Connect to a replica that runs.

        Raises:
            Lost: It does not.
        """
        replica.address = address
        connection = await dial(address, self._key, self._generation, Role.PYTHON)
        replica.connection = connection
        connection.on_change = lambda: self._changed(replica, connection)
        self.replicas[replica.id] = replica

    def watch(self, replica: Replica) -> None:
        """Route to an adopted replica, and probe it from now on."""
        replica.take(ReplicaEvent.PROBED)
        replica.probing = self._spawn(self._probe(replica))

    async def retire(self, replicas: Iterable[Replica]) -> None:
        """Drain *replicas*, which no router uses any more, and end them."""
        await asyncio.gather(*(self._retire(replica) for replica in replicas))

    def unroute(self, replicas: Iterable[Replica]) -> None:
        """Let the next table leave *replicas* out."""
        for replica in replicas:
            if replica.state is not ReplicaState.STOPPED:
                replica.take(ReplicaEvent.RETIRED)

    async def _retire(self, replica: Replica) -> None:
        grace_s = replica.config.graceful_shutdown_timeout_s
        try:
            await replica.control("@drain", grace_s, timeout_s=grace_s + CONTROL_TIMEOUT_S)
        except (Lost, TimeoutError, ServeBridgeError) as error:
            _logger.warning("replica %s did not drain: %s", replica.id, error)
        await self._end(replica)

    async def abandon(self, replicas: Iterable[Replica]) -> None:
        """End *replicas* at once."""
        await asyncio.gather(*(self._end(replica) for replica in replicas))

    async def _end(self, replica: Replica) -> None:
        if replica.state is not ReplicaState.STOPPED:
            replica.take(ReplicaEvent.DIED)
        self._forget(replica)
        await self._runtime.stop(replica.id)

    def _forget(self, replica: Replica) -> None:
        self.replicas.pop(replica.id, None)
        if replica.probing is not None and replica.probing is not asyncio.current_task():
            replica.probing.cancel()
        connection, replica.connection = replica.connection, None
        if connection is not None:
            connection.on_change = None
            connection.close()

    def _changed(self, replica: Replica, connection: CallerConnection) -> None:
        """The replica's connection closed, or it said goodbye because it drains."""
        if not connection.closed or replica.state in (ReplicaState.DRAINING, ReplicaState.STOPPED):
            return
        starting = replica.state is ReplicaState.STARTING
        replica.take(ReplicaEvent.DIED)
        self._forget(replica)
        self._spawn(self._runtime.stop(replica.id))
        if not starting:  # whoever launches it learns it there
            _logger.warning("replica %s of backend %r died", replica.id, replica.backend)
            self._on_change(replica.backend)

    async def _probe(self, replica: Replica) -> None:
        """Probe *replica* for as long as it takes requests; one that fails twice running is ended."""
        while replica.state in (ReplicaState.READY, ReplicaState.UNHEALTHY):
            await asyncio.sleep(replica.config.health_check_period_s)
            try:
                await replica.control("@check", timeout_s=replica.config.health_check_timeout_s)
                event = ReplicaEvent.PROBED
            except Lost:
                return
            except Exception as error:  # whatever the user's check_health raises
                _logger.warning("replica %s failed a health check: %s", replica.id, error or type(error).__name__)
                event = ReplicaEvent.PROBE_FAILED
            before = replica.state
            replica.take(event)
            if before is ReplicaState.UNHEALTHY and event is ReplicaEvent.PROBE_FAILED:
                await self._end(replica)
            if replica.state is not before:
                self._on_change(replica.backend)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def close(self) -> None:
        """Stop watching; what runs goes on running."""
        for task in self._tasks:
            task.cancel()
        for replica in list(self.replicas.values()):
            self._forget(replica)
