"""The replicas the controller runs: launched, configured, watched, drained and ended.

Rule 1: a replica's state moves by `lifecycle.advance` only.
Rule 2: a replica that may still hold work is drained before it is ended; one that does not answer is ended at once.
        One that cannot be reached is not: it may serve others (see `contact`).
Rule 3: nothing here decides how many there should be; the controller does.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.controller.contact import regained
from serve_bridge.controller.lifecycle import ReplicaEvent, ReplicaState, advance
from serve_bridge.controller.runtime import Runtime
from serve_bridge.errors import AuthenticationError, BackendStartError, ConfigError, ReplicaDied
from serve_bridge.instance.instance_file import Instance
from serve_bridge.specs import Backend, ReplicaSpec
from serve_bridge.wire import calls_made as calls
from serve_bridge.wire.address import ReplicaAddress
from serve_bridge.wire.auth import Key, Role
from serve_bridge.wire.caller_end import CallerConnection
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.host import GONE_S
from serve_bridge.wire.listener import NobodyListens, dial_running

CONTROL_TIMEOUT_S: Final = 10.0
CRASH_S: Final = 5.0
"""A replica that dies so soon after it was ready counts as one that could not start."""

_SERVING: Final = (ReplicaState.READY, ReplicaState.UNHEALTHY)
_logger = logging.getLogger("serve_bridge.controller")


@dataclass(frozen=True)
class RunningReplica:
    """What a restarted controller must know of a replica; one that was still starting has no address."""

    id: str
    backend: str
    revision: int
    address: ReplicaAddress | None


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
        self.reconfiguring = False
        self._ready_since: float | None = None

    @property
    def described(self) -> str:
        """Its state; "unreachable" while it may serve others, and its connection to the controller is broken."""
        serving = self.state in (ReplicaState.READY, ReplicaState.UNHEALTHY)
        return "unreachable" if serving and self.connection is None else str(self.state)

    def take(self, event: ReplicaEvent) -> None:
        """Move on by *event*."""
        self.state = advance(self.state, event)
        if self._ready_since is None and self.state is ReplicaState.READY:
            self._ready_since = time.monotonic()

    def crashed(self) -> bool:
        """Whether it died as soon as it was ready."""
        young = self._ready_since is None or time.monotonic() - self._ready_since < CRASH_S
        return young and self.state is ReplicaState.STOPPED

    def has_lasted(self) -> bool:
        """Whether it has been ready for longer than one that crashes at once."""
        return self._ready_since is not None and time.monotonic() - self._ready_since >= CRASH_S

    async def control(self, operation: str, *args: object, timeout_s: float, **kwargs: Any) -> object:
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
        directory: str,
        tcp_host: str | None,
        on_change: Callable[[Replica], None],
        on_end: Callable[[Replica, str], None],
    ) -> None:
        """*on_change* is called with a replica that was lost or changed its health.

        *on_end* is called with one that was lost, and how its process has ended, once that is known.
        """
        self._runtime = runtime
        self._key = key
        self._generation = generation
        self._directory = directory
        self._tcp_host = tcp_host
        self._on_change = on_change
        self._on_end = on_end
        self._tasks: set[asyncio.Task[None]] = set()
        self._instance: Instance | None = None
        self.replicas: dict[str, Replica] = {}

    def begin(self, instance: Instance) -> None:
        """Let replicas be launched, which are told of *instance*."""
        self._instance = instance.only(Role.EDGE, Role.PYTHON)

    async def announce(self) -> None:
        """Tell all replicas where the controller is."""
        await asyncio.gather(*(self._announce(replica) for replica in self.replicas.values()))

    async def _announce(self, replica: Replica) -> None:
        assert self._instance is not None
        try:
            await replica.control("@move", self._instance.controller, timeout_s=CONTROL_TIMEOUT_S)
        except Exception as error:  # it is busy, or about to be found dead
            _logger.warning("replica %s was not told where the controller is: %s", replica.id, error)

    @property
    def running(self) -> list[RunningReplica]:
        """The replicas that run or are about to."""
        return [RunningReplica(r.id, r.backend, r.revision, r.address) for r in self.replicas.values()]

    def of(self, backend: str, *states: ReplicaState) -> list[Replica]:
        """Return *backend*'s replicas that are in one of *states*."""
        return [r for r in self.replicas.values() if r.backend == backend and r.state in states]

    def ready(self, revisions: Mapping[str, int]) -> dict[str, tuple[ReplicaAddress, ...]]:
        """Return where the replicas that take requests are, by backend; only those of the wanted revision."""
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
            id = f"{name}-{secrets.token_hex(3)}"
            replica = Replica(id, backend.name, backend.revision, backend.resolved)
            self.replicas[replica.id] = replica
            planned.append(replica)
        return planned

    async def launch(self, backend: Backend, planned: list[Replica], *, all_or_none: bool = True) -> None:
        """Start the *planned* replicas; they are ready but not yet routed to.

        Args:
            backend: What they run.
            planned: What `plan` returned.
            all_or_none: Whether one that cannot start ends the others too.

        Raises:
            BackendStartError: One could not start in time; nothing of it is left.
        """
        starting = [self._spawn(self._launch(backend, replica)) for replica in planned]
        try:
            await asyncio.wait(starting, return_when=asyncio.FIRST_EXCEPTION if all_or_none else asyncio.ALL_COMPLETED)
        except asyncio.CancelledError:
            await _cancelled(starting)
            await self.abandon(planned)
            raise
        errors = [error for task in starting if task.done() and (error := task.exception())]
        if errors:
            await _cancelled(starting)
            lost = [r for r, task in zip(planned, starting, strict=True) if all_or_none or task.exception()]
            await self.abandon(lost)
            raise errors[0]

    async def _launch(self, backend: Backend, replica: Replica) -> None:
        config = backend.resolved
        assert self._instance is not None
        spec = ReplicaSpec(
            replica=replica.id,
            backend=backend.name,
            instance=self._instance,
            directory=self._directory,
            tcp_host=self._tcp_host,
            code=backend.code,
            config=config,
        )
        options = backend.actor_options.open()
        try:
            async with asyncio.timeout(config.start_timeout_s):
                address = await self._runtime.launch_replica(spec, self._key.only(Role.EDGE, Role.PYTHON), options)
                await self.adopt(replica, address)
                await self._check_first(replica)
        except (BackendStartError, ConfigError):
            raise
        except TimeoutError:
            why = f"it was not ready within start_timeout_s={config.start_timeout_s:g}"
            if wait := await self._runtime.explain_wait(replica.id, options):
                why = f"{why}; {wait}"
                if any(r.revision != backend.revision for r in self.of(backend.name, *_SERVING)):
                    why = f"{why}; an update needs room for the new replicas beside the old ones, which serve meanwhile"
            raise BackendStartError(backend.name, why) from None
        except (Lost, AuthenticationError) as error:
            raise BackendStartError(backend.name, f"its process ended while it started: {error}") from None
        except Exception as error:  # whatever the runtime raises
            why = f"its process could not be started: {type(error).__name__}: {error}"
            raise BackendStartError(backend.name, why) from error
        self.watch(replica)

    async def _check_first(self, replica: Replica) -> None:
        """Probe *replica* for the first time.

        Raises:
            BackendStartError: The user's `check_health` raised.
            Lost, TimeoutError: It has ended, or did not answer in time.
        """
        try:
            await replica.control("@check", timeout_s=replica.config.start_timeout_s)
        except (Lost, AuthenticationError, TimeoutError):
            raise
        except Exception as error:
            why = f"its first health check failed: {type(error).__name__}: {error}"
            raise BackendStartError(replica.backend, why) from None

    async def adopt(self, replica: Replica, address: ReplicaAddress) -> None:
        """Connect to a replica that runs.

        Raises:
            Lost: It does not.
        """
        replica.address = address
        connection = await dial_running(address, self._key, self._generation, Role.PYTHON)
        self._attach(replica, connection)
        self.replicas[replica.id] = replica

    def _attach(self, replica: Replica, connection: CallerConnection) -> None:
        replica.connection = connection
        connection.on_change = lambda: self._changed(replica, connection)

    async def recover(self, found: RunningReplica, backend: Backend | None) -> None:
        """Take over a replica of a controller that has ended; one that *backend* does not want is ended."""
        if backend is None or found.address is None:
            await self._runtime.stop(found.id)
            return
        replica = Replica(found.id, found.backend, found.revision, backend.resolved)
        try:
            await self.adopt(replica, found.address)
        except (NobodyListens, AuthenticationError) as error:
            _logger.warning("replica %s did not survive the controller: %s", found.id, error)
            await self.abandon([replica])
            return
        except Lost:
            self.replicas[replica.id] = replica
            self._spawn(self._regain(replica))
        # It answers, or may do so to others, so it counts; whether it is well is for its probes to find.
        self.watch(replica)
        if backend.revision != found.revision:
            self.unroute([replica])
            self._spawn(self.retire([replica]))

    def watch(self, replica: Replica) -> None:
        """Let routers have a replica that runs, and probe it from now on."""
        replica.take(ReplicaEvent.PROBED)
        replica.probing = self._spawn(self._probe(replica))

    async def configure(self, replicas: list[Replica], old: Backend, new: Backend) -> None:
        """Bring *replicas* from *old*'s options to *new*'s, all or none.

        A new `user_config` reaches one replica after another, so that the others serve meanwhile.

        Raises:
            ReplicaDied: A replica ended, or did not answer in time, while it took a new `user_config`.
            Exception: What a replica has against the new options; all have the old ones again.
        """
        if replace(old.resolved, num_replicas=1) == replace(new.resolved, num_replicas=1):
            return
        if old.config.user_config == new.config.user_config:
            await self._follow(replicas, old, new)
            return
        done: list[Replica] = []
        try:
            for replica in replicas:
                await self._reconfigure(replica, new.resolved)
                done.append(replica)
        except BaseException:
            for replica in done:
                try:
                    await self._reconfigure(replica, old.resolved)
                except Exception as error:  # its state is unknown: one that starts afresh has the old options
                    _logger.warning("replica %s does not take its old options: %s", replica.id, error)
                    await self._end(replica)
            raise

    async def _follow(self, replicas: list[Replica], old: Backend, new: Backend) -> None:
        """Bring *replicas* to *new*'s options, which the engine follows by itself, all at once."""

        async def follow(replica: Replica, config: BackendConfig) -> None:
            if replica.connection is not None:
                await replica.control("@configure", config, reconfigure=False, timeout_s=CONTROL_TIMEOUT_S)
            replica.config = config  # one that cannot be reached takes it as soon as it can

        outcomes = await asyncio.gather(*(follow(r, new.resolved) for r in replicas), return_exceptions=True)
        # A replica that died meanwhile is replaced by one that starts with the wanted options.
        errors = [e for e in outcomes if isinstance(e, BaseException) and not isinstance(e, Lost)]
        if errors:
            done = [r for r, outcome in zip(replicas, outcomes, strict=True) if outcome is None]
            await asyncio.gather(*(follow(r, old.resolved) for r in done), return_exceptions=True)
            raise errors[0]

    async def _reconfigure(self, replica: Replica, config: BackendConfig) -> None:
        """Let *replica* take the `user_config` of *config*; no health probe counts meanwhile."""
        replica.reconfiguring = True
        try:
            await replica.control("@configure", config, reconfigure=True, timeout_s=config.start_timeout_s)
        except Lost as error:
            raise ReplicaDied(f"replica {replica.id} of backend {replica.backend!r} ended in reconfigure()") from error
        except TimeoutError:
            await self._end(replica)
            raise ReplicaDied(
                f"replica {replica.id} of backend {replica.backend!r} did not end reconfigure() within "
                f"start_timeout_s={config.start_timeout_s:g}, and was ended"
            ) from None
        finally:
            replica.reconfiguring = False
        replica.config = config

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
        except Exception as error:  # however it went, the replica is ended
            _logger.warning("replica %s did not drain: %s", replica.id, error or type(error).__name__)
        await self._end(replica)

    async def abandon(self, replicas: Iterable[Replica]) -> None:
        """End *replicas* at once."""
        await asyncio.gather(*(self._end(replica) for replica in replicas))

    async def end(self) -> None:
        """Drain and end every replica; those that were still starting, at once."""
        serving = list(self.replicas.values())
        self.unroute(serving)
        await self.retire([replica for replica in serving if replica.connection is not None])
        await self.abandon(list(self.replicas.values()))

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
        if replica.state is ReplicaState.STARTING:  # the launch that waits for it learns it there
            replica.take(ReplicaEvent.DIED)
            self._forget(replica)
            self._spawn(self._runtime.stop(replica.id))
        elif replica.connection is connection:
            replica.connection = None
            self._spawn(self._regain(replica))

    async def _regain(self, replica: Replica) -> None:
        """Connect again to *replica*, whose connection broke, or note that it died."""
        assert replica.address is not None
        ended = partial(self._runtime.has_ended, replica.id)
        connection = await regained(replica.address, self._key, self._generation, Role.PYTHON, ended)
        if replica.state not in (ReplicaState.READY, ReplicaState.UNHEALTHY):  # ended meanwhile
            if connection is not None:
                connection.close()
            return
        if connection is not None:
            self._attach(replica, connection)
            _logger.info("replica %s of backend %r can be reached again", replica.id, replica.backend)
            await self._announce(replica)
            await self._catch_up(replica)
            return
        replica.take(ReplicaEvent.DIED)
        self._forget(replica)
        self._spawn(self._bury(replica))
        _logger.warning("replica %s of backend %r died", replica.id, replica.backend)
        self._on_change(replica)

    async def _bury(self, replica: Replica) -> None:
        """Find out how *replica* has ended, and see that nothing of it runs on."""
        how = await self._runtime.explain_end(replica.id)
        await self._runtime.stop(replica.id)
        if how:
            _logger.warning("replica %s of backend %r ended with %s", replica.id, replica.backend, how)
            self._on_end(replica, how)

    async def _catch_up(self, replica: Replica) -> None:
        """Let *replica* have the options that it missed while it could not be reached."""
        try:
            await replica.control("@configure", replica.config, reconfigure=False, timeout_s=CONTROL_TIMEOUT_S)
        except Exception as error:  # its probes find what is wrong
            _logger.warning("replica %s does not take its options: %s", replica.id, error)

    async def _probe(self, replica: Replica) -> None:
        """Probe *replica* for as long as it takes requests; one that fails twice running is replaced."""
        while replica.state in (ReplicaState.READY, ReplicaState.UNHEALTHY):
            await asyncio.sleep(replica.config.health_check_period_s)
            connection = replica.connection
            if replica.reconfiguring or connection is None:
                continue
            failure = await self._check(replica)
            if replica.state not in (ReplicaState.READY, ReplicaState.UNHEALTHY):
                return  # retired or lost meanwhile
            if replica.reconfiguring:  # it may have waited behind that
                continue
            if failure is not None and (connection.closed or connection.is_host_silent(GONE_S)):
                connection.close()  # it is dialled again, until it answers or has ended
                continue
            before = replica.state
            replica.take(ReplicaEvent.PROBED if failure is None else ReplicaEvent.PROBE_FAILED)
            if failure is not None and before is ReplicaState.UNHEALTHY:
                if isinstance(failure, TimeoutError):
                    await self._end(replica)
                else:  # it answers, so it can finish what it has
                    replica.take(ReplicaEvent.RETIRED)
                    self._spawn(self._retire(replica))
            if replica.state is not before:
                self._on_change(replica)

    async def _check(self, replica: Replica) -> Exception | None:
        """Return why *replica* failed a health probe; None if it did not."""
        try:
            await replica.control("@check", timeout_s=replica.config.health_check_timeout_s)
        except Exception as error:  # whatever the user's check_health raises
            if replica.connection is not None:
                why = str(error) or type(error).__name__
                _logger.warning("replica %s failed a health check: %s", replica.id, why)
            return error
        return None

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


async def _cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel *tasks* and see them end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
