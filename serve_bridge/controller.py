"""The controller: keeps what users want, makes it so, and publishes the routing table.

Rule 1: never on a request's path.
Rule 2: a change is checkpointed before it is acted on or published; a refused change leaves everything as it was.
Rule 3: changes of one backend happen one after another; the table changes at one place (`_publish`).
Rule 4: a recovering controller adopts the replicas and proxies it finds, and neither publishes nor takes a change
        before it has counted them.
Rule 5: a change that has begun is seen through, whatever becomes of who asked for it; only `shutdown` ends it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from serve_bridge import instance as instances
from serve_bridge.config import BackendConfig, HTTPOptions
from serve_bridge.errors import AuthenticationError, ConfigError, ProtocolError
from serve_bridge.fleet import Fleet, Replica, Setbacks
from serve_bridge.instance import Instance
from serve_bridge.lifecycle import ReplicaState
from serve_bridge.messages import CONTROLLER, ReplicaAddress
from serve_bridge.proxies import Proxies, RunningProxy
from serve_bridge.publisher import Publisher
from serve_bridge.runtime import Runtime
from serve_bridge.wanted import Backend, Wanted
from serve_bridge.wire import calls, payload
from serve_bridge.wire.auth import Key, Role
from serve_bridge.wire.connection import Lost, ReplicaStream
from serve_bridge.wire.frames import Frame, Kind
from serve_bridge.wire.sockets import Listener

ACKNOWLEDGE_S: Final = 2.0
"""How long a change waits for a router that does not acknowledge its table."""
LEASE_GRACE_S: Final = 3.0
CHECKPOINT_FORMAT: Final = 1

_STARTING, _READY, _UNHEALTHY = ReplicaState.STARTING, ReplicaState.READY, ReplicaState.UNHEALTHY
_logger = logging.getLogger("serve_bridge.controller")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Settings:
    """What an instance is started from.

    Attributes:
        name, generation: Which instance, and which start of it.
        directory: Where its sockets and its file are.
        detached: Whether it outlives the process that started it.
        tcp_host: Address to listen on for other nodes; None: unix sockets only.
        http: Where proxies listen, and their limits.
    """

    name: str
    generation: str
    directory: str
    detached: bool
    tcp_host: str | None
    http: HTTPOptions


@dataclass(frozen=True)
class _Checkpoint:
    """What a restarted controller must know."""

    wanted: Wanted  # without code, which has keys of its own
    version: int
    http_port: int
    tcp_port: int
    proxies: list[RunningProxy]
    replicas: dict[str, tuple[str, int, ReplicaAddress | None]]
    format: int = field(default=CHECKPOINT_FORMAT)


class Controller:
    """Runs one instance; `start` it on the loop it is to live on."""

    def __init__(self, settings: Settings, key: Key, runtime: Runtime) -> None:
        self._settings = settings
        self._key = key
        self._runtime = runtime
        self._store = runtime.store
        self._listener = Listener(self, key, settings.generation, CONTROLLER)
        self._wanted = Wanted()
        self._version = 0
        self._tcp_port = 0
        self._setbacks: defaultdict[str, Setbacks] = defaultdict(Setbacks)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._changes: set[asyncio.Task[Any]] = set()
        self._repairs: dict[str, asyncio.Task[None]] = {}
        self._leases = 0
        self._lease_ends: asyncio.TimerHandle | None = None
        self._closing = False
        self._operations: dict[str, Callable[..., Awaitable[Any]]] = {
            "create_backend": self.create_backend,
            "update_backend": self.update_backend,
            "update_backend_config": self.update_backend_config,
            "delete_backend": self.delete_backend,
            "list_backends": self.list_backends,
            "create_endpoint": self.create_endpoint,
            "delete_endpoint": self.delete_endpoint,
            "list_endpoints": self.list_endpoints,
            "set_traffic": self.set_traffic,
            "shadow_traffic": self.shadow_traffic,
            "status": self.status,
            "lease": self.lease,
            "shutdown": self.shutdown,
        }

    async def start(self) -> Instance:
        """Listen, recover what a predecessor left or begin afresh, start the proxies; return how to be found.

        Raises:
            OSError, ValueError: A proxy cannot listen where it should.
        """
        settings = self._settings
        self._publisher = Publisher()
        self._commit = asyncio.Lock()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        directory = Path(settings.directory)
        instance_file = str(directory / "instance.json")
        self._fleet = Fleet(
            self._runtime,
            self._key,
            generation=settings.generation,
            instance_file=instance_file,
            directory=settings.directory,
            tcp_host=settings.tcp_host,
            on_change=self._fleet_changed,
        )
        self._proxies = Proxies(
            self._runtime,
            self._key,
            generation=settings.generation,
            directory=settings.directory,
            tcp_host=settings.tcp_host,
        )
        checkpoint = await self._load()
        if checkpoint is not None:
            await self._recover(checkpoint)
        # Not before: a change that came now would be made to nothing, and checkpointed so.
        address = await self._listener.listen(directory, settings.tcp_host, self._tcp_port)
        self._tcp_port = address.tcp[1] if address.tcp else 0
        self._instance = Instance(
            name=settings.name,
            generation=settings.generation,
            directory=settings.directory,
            controller=address,
            secret=self._key.secret.hex(),
        )
        if checkpoint is not None:
            await self._resume(checkpoint)
            return self._instance
        try:
            await self._publish()
            await self._proxies.start(settings.http, self._instance.controller)
            await self._save()
            instances.write(self._instance)
        except BaseException:
            self.close()
            instances.remove(self._instance)
            raise
        if not settings.detached:
            self._expect_lease()
        return self._instance

    async def _resume(self, checkpoint: _Checkpoint) -> None:
        """Go on where a predecessor ended; what it had running is known by now."""
        await self._publish()
        http = replace(self._settings.http, port=checkpoint.http_port)
        self._proxies.resume(http, self._instance.controller)
        for name in self._wanted.backends:
            self._repair_soon(name)
        await self._save()
        if not self._settings.detached:
            self._expect_lease()

    # wire.connection.Service

    def load(self) -> int:
        """Return how many operations are running."""
        return len(self._tasks)

    def accept(self, stream: ReplicaStream, frame: Frame, role: Role) -> None:
        """Take a subscription (REQUEST) or an operation (CALL)."""
        if frame.kind == Kind.REQUEST:
            self._spawn(self._publisher.serve(stream), stream)
            return
        try:
            head = calls.decode_call(frame.payload)
        except msgspec.MsgspecError as error:
            raise ProtocolError(f"an operation's head is malformed: {error}") from None
        operation = self._operations.get(head.call_method)
        if operation is None:
            stream.reject("not exposed", head.call_method)
        elif self._closing and head.call_method != "shutdown":
            stream.reject("closing", "the instance is shutting down")
        else:
            # Of all operations only a lease ends with its caller (Rule 5).
            held = stream if head.call_method == "lease" else None
            self._spawn(calls.answer_control(stream, head, operation), held)

    def _spawn(self, work: Any, stream: ReplicaStream | None = None) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        if stream is not None:
            stream.on_cancel = task.cancel
            task.add_done_callback(lambda _: stream.abort())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # backends

    async def create_backend(self, backend: Backend) -> None:
        """Start *backend*'s replicas, then let endpoints use it.

        Raises:
            ConfigError: The name is taken.
            BackendStartError: It cannot start; nothing is left of it.
        """
        async with self._changing(backend.name):
            if backend.name in self._wanted.backends:
                raise ConfigError(f"backend {backend.name!r} exists already; update_backend changes its code")
            await self._launch(backend, backend.config.num_replicas)
            await self._change(lambda wanted: wanted.backends.update({backend.name: backend}))

    async def update_backend(
        self, name: str, code: bytes, is_async: bool, config: BackendConfig | None, actor_options: payload.Opaque | None
    ) -> None:
        """Replace *name*'s code: new replicas are ready before old ones drain.

        Raises:
            BackendNotFound: There is none.
            BackendStartError: The new code cannot start; the old goes on serving.
        """
        async with self._changing(name):
            old = self._wanted.backend(name)
            new = replace(
                old,
                code=code,
                is_async=is_async,
                revision=old.revision + 1,
                config=old.config if config is None else old.config.merged(config),
                actor_options=actor_options or old.actor_options,
            )
            await self._launch(new, new.config.num_replicas)
            await self._change(lambda wanted: wanted.backends.update({name: new}))
            await self._withdraw(self._outdated(new))
            await self._store.delete(_code_key(old))

    async def update_backend_config(self, name: str, config: BackendConfig) -> None:
        """Change the options of *name* that *config* was given; its replicas go on.

        Raises:
            BackendNotFound: There is none.
            ConfigError: The code cannot follow the new options; nothing has changed.
            BackendStartError: More replicas cannot start; the number has not changed.
        """
        async with self._changing(name):
            old = self._wanted.backend(name)
            new = replace(old, config=old.config.merged(config))
            running = self._fleet.of(name, _READY, _UNHEALTHY)  # what must go is taken from the end
            await self._configure(running, old, new)
            try:
                await self._launch(new, new.config.num_replicas - len(running))
            except BaseException:
                await self._configure(running, new, old)
                raise
            await self._change(lambda wanted: wanted.backends.update({name: new}))
            surplus = running[new.config.num_replicas :]
            if surplus:
                await self._withdraw(surplus)

    async def _configure(self, replicas: list[Replica], old: Backend, new: Backend) -> None:
        """Bring *replicas* from *old*'s options to *new*'s, all or none."""
        changed = old.config.user_config != new.config.user_config
        if replace(old.resolved, num_replicas=1) == replace(new.resolved, num_replicas=1):
            return

        async def configure(replica: Replica, config: BackendConfig) -> None:
            await replica.control("@configure", config, reconfigure=changed, timeout_s=config.start_timeout_s)
            replica.config = config

        outcomes = await asyncio.gather(*(configure(r, new.resolved) for r in replicas), return_exceptions=True)
        # A replica that died meanwhile is replaced by one that starts with the wanted options.
        errors = [e for e in outcomes if isinstance(e, BaseException) and not isinstance(e, Lost)]
        if errors:
            done = [r for r, outcome in zip(replicas, outcomes, strict=True) if outcome is None]
            await asyncio.gather(*(configure(r, old.resolved) for r in done), return_exceptions=True)
            raise errors[0]

    async def delete_backend(self, name: str, force: bool) -> None:
        """End *name*'s replicas once nobody can reach them; an unknown name is fine.

        Raises:
            ConfigError: A traffic policy names it.
        """
        async with self._changing(name):
            backend = await self._change(lambda wanted: wanted.delete_backend(name, force=force))
            if backend is None:
                return
            await self._withdraw(self._fleet.of(name, _READY, _UNHEALTHY))
            await self._store.delete(_code_key(backend))

    async def list_backends(self) -> dict[str, BackendConfig]:
        """Return every backend's options, defaults filled in."""
        return {name: backend.resolved for name, backend in self._wanted.backends.items()}

    async def _launch(self, backend: Backend, count: int, *, all_or_none: bool = True) -> None:
        if count <= 0:
            return
        planned = self._fleet.plan(backend, count)
        try:
            await self._store.put(_code_key(backend), backend.code)
            await self._save()
        except BaseException:
            await self._fleet.abandon(planned)
            raise
        await self._fleet.launch(backend, planned, all_or_none=all_or_none)

    def _outdated(self, backend: Backend) -> list[Replica]:
        running = self._fleet.of(backend.name, _READY, _UNHEALTHY)
        return [replica for replica in running if replica.revision != backend.revision]

    async def _withdraw(self, replicas: list[Replica]) -> None:
        """Unpublish *replicas*, then drain and end them."""
        # Unpublish first, then drain: a router that still holds the old table gets a REJECT, which loses nothing.
        self._fleet.unroute(replicas)
        await self._publisher.acknowledged(await self._publish(), ACKNOWLEDGE_S)
        await self._fleet.retire(replicas)

    # endpoints

    async def create_endpoint(self, name: str, backend: str, route: str | None, methods: tuple[str, ...]) -> None:
        """Let callers use *backend* under *name*; see `Wanted.create_endpoint`."""
        await self._change(lambda wanted: wanted.create_endpoint(name, backend=backend, route=route, methods=methods))

    async def delete_endpoint(self, name: str) -> None:
        """Take the endpoint away; an unknown name is fine."""
        await self._change(lambda wanted: wanted.endpoints.pop(name, None))

    async def list_endpoints(self) -> dict[str, dict[str, Any]]:
        """Return every endpoint's route, methods and traffic."""
        return self._wanted.describe_endpoints()

    async def set_traffic(self, endpoint: str, weights: Mapping[str, float]) -> None:
        """Replace an endpoint's split; see `Wanted.set_traffic`."""
        await self._change(lambda wanted: wanted.set_traffic(endpoint, weights))

    async def shadow_traffic(self, endpoint: str, backend: str, proportion: float) -> None:
        """Copy a share of an endpoint's requests; see `Wanted.shadow_traffic`."""
        await self._change(lambda wanted: wanted.shadow_traffic(endpoint, backend, proportion))

    # the instance

    async def status(self) -> dict[str, Any]:
        """Return what runs: the proxies' base URLs, and what `_describe` says of each backend."""
        return {
            "name": self._settings.name,
            "http_urls": self._proxies.urls,
            "table_version": self._version,
            "backends": {name: self._describe(backend) for name, backend in self._wanted.backends.items()},
        }

    def _describe(self, backend: Backend) -> dict[str, Any]:
        """Return how many replicas a backend should have, those it has by state, and why it lacks some."""
        replicas = {r.id: str(r.state) for r in self._fleet.replicas.values() if r.backend == backend.name}
        setbacks = self._setbacks[backend.name]
        short = len(self._fleet.of(backend.name, _READY)) < backend.config.num_replicas
        return {
            "wanted": backend.config.num_replicas,
            "replicas": replicas,
            "failure": setbacks.reason if setbacks.reason and (short or setbacks.recent()) else None,
            "failed": setbacks.failed(),
        }

    async def lease(self) -> None:
        """Keep a non-detached instance alive for as long as the caller holds on; never returns."""
        self._leases += 1
        if self._lease_ends is not None:
            self._lease_ends.cancel()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self._leases -= 1
            if not self._leases and not self._closing:
                self._expect_lease()

    def _expect_lease(self) -> None:
        def end() -> None:
            _logger.info("the process that started instance %r has gone", self._settings.name)
            self._spawn(self.shutdown())

        self._lease_ends = asyncio.get_running_loop().call_later(LEASE_GRACE_S, end)

    async def shutdown(self) -> None:
        """Drain and end proxies and replicas, forget everything, and end."""
        if self._closing:
            return
        self._closing = True
        changes = {*self._repairs.values(), *self._changes} - {asyncio.current_task()}
        for change in changes:
            change.cancel()
        await asyncio.gather(*changes, return_exceptions=True)
        for step in (self._proxies.stop, self._end_fleet, self._forget):
            try:
                await step()
            except Exception:  # whatever cannot be ended must not keep the rest alive
                _logger.exception("instance %r: shutdown", self._settings.name)
        asyncio.get_running_loop().call_later(0.05, self._end)  # once the answer is out

    async def _end_fleet(self) -> None:
        serving = list(self._fleet.replicas.values())
        self._fleet.unroute(serving)
        await self._fleet.retire([r for r in serving if r.connection is not None])
        await self._fleet.abandon(list(self._fleet.replicas.values()))

    async def _forget(self) -> None:
        instances.remove(self._instance)
        await self._store.delete("")

    def _end(self) -> None:
        self.close()
        self._spawn(self._runtime.end())

    def close(self) -> None:
        """Drop every connection; what runs goes on running."""
        self._fleet.close()
        self._listener.close()

    # keeping it so

    @asynccontextmanager
    async def _changing(self, name: str) -> AsyncIterator[None]:
        """Change backend *name*, alone; what is missing of it afterwards is repaired."""
        task = asyncio.current_task()
        assert task is not None
        self._changes.add(task)
        # A user who corrects a backend must not wait for replicas of the wrong one that hang while they start.
        if name in self._repairs:
            self._repairs[name].cancel()
        try:
            async with self._locks[name]:
                yield
        finally:
            self._changes.discard(task)
            self._repair_soon(name)

    async def _change(self, apply: Callable[[Wanted], _Result]) -> _Result:
        """Apply a change to a copy of what is wanted; checkpoint and publish it; wait until routers have it."""
        async with self._commit:
            draft = Wanted(dict(self._wanted.backends), dict(self._wanted.endpoints))
            result = apply(draft)
            await self._write(draft)
            self._wanted = draft
        version = await self._publish()
        await self._publisher.acknowledged(version, ACKNOWLEDGE_S)
        return result

    async def _publish(self) -> int:
        self._version += 1
        version = self._version
        revisions = {name: backend.revision for name, backend in self._wanted.backends.items()}
        table = self._wanted.table(self._settings.generation, version, self._fleet.ready(revisions))
        await self._publisher.publish(table)
        return version

    def _fleet_changed(self, replica: Replica) -> None:
        """A replica was lost or changed its health: tell the routers, and make up for it."""
        if self._closing:
            return
        if replica.crashed():
            self._setbacks[replica.backend].note(f"replica {replica.id} died as soon as it was ready")
        self._spawn(self._publish())
        self._repair_soon(replica.backend)

    def _repair_soon(self, name: str) -> None:
        repair = self._repairs.get(name)
        if (repair is None or repair.done() or repair.cancelling()) and not self._closing:
            self._repairs[name] = self._spawn(self._repair(name))

    async def _repair(self, name: str) -> None:
        """Bring *name* to its number of replicas, with back-off while they cannot start."""
        setbacks = self._setbacks[name]
        while True:
            await asyncio.sleep(setbacks.delay_s())
            async with self._locks[name]:
                backend = self._wanted.backends.get(name)
                if backend is None:
                    self._setbacks.pop(name, None)
                    return
                running = self._fleet.of(name, _STARTING, _READY, _UNHEALTHY)
                missing = backend.config.num_replicas - len(running)
                if missing < 0:  # a predecessor had not come to it
                    await self._withdraw(running[missing:])
                if missing <= 0:
                    return
                try:
                    await self._launch(backend, missing, all_or_none=False)
                except Exception as error:  # whatever it is: giving up would leave the backend short for ever
                    setbacks.note(str(error))
                    _logger.warning("backend %r: %s", name, error)
                await self._publish()
                await self._save()

    # the checkpoint

    async def _save(self) -> None:
        async with self._commit:
            await self._write(self._wanted)

    async def _write(self, wanted: Wanted) -> None:
        """Checkpoint *wanted* and what runs; by who holds `_commit`, or an older one could come last."""
        stripped = {name: replace(backend, code=b"") for name, backend in wanted.backends.items()}
        checkpoint = _Checkpoint(
            wanted=Wanted(stripped, wanted.endpoints),
            version=self._version + 1,
            http_port=self._proxies.port,
            tcp_port=self._tcp_port,
            proxies=self._proxies.running,
            replicas={r.id: (r.backend, r.revision, r.address) for r in self._fleet.replicas.values()},
        )
        await self._store.put("checkpoint", payload.join(payload.pack(checkpoint)))

    async def _load(self) -> _Checkpoint | None:
        data = await self._store.get("checkpoint")
        if data is None:
            return None
        checkpoint = payload.unpack(data)
        if not isinstance(checkpoint, _Checkpoint) or checkpoint.format != CHECKPOINT_FORMAT:
            raise ConfigError(
                f"instance {self._settings.name!r} left a checkpoint of another version of serve_bridge; "
                "shut it down with the version that started it"
            )
        return checkpoint

    async def _recover(self, checkpoint: _Checkpoint) -> None:
        """Take over what a predecessor has started."""
        self._version = checkpoint.version + 1000  # tables that were published after the checkpoint
        self._tcp_port = checkpoint.tcp_port
        backends = {}
        for name, backend in checkpoint.wanted.backends.items():
            backends[name] = replace(backend, code=await self._store.get(_code_key(backend)) or b"")
        self._wanted = Wanted(backends, checkpoint.wanted.endpoints)
        await asyncio.gather(
            *(self._adopt(id, *found) for id, found in checkpoint.replicas.items()),
            *(self._proxies.adopt(proxy) for proxy in checkpoint.proxies),
        )

    async def _adopt(self, id: str, backend: str, revision: int, address: ReplicaAddress | None) -> None:
        wanted = self._wanted.backends.get(backend)
        if wanted is None or address is None:
            await self._runtime.stop(id)
            return
        replica = Replica(id, backend, revision, wanted.resolved)
        try:
            await self._fleet.adopt(replica, address)
        except (Lost, AuthenticationError) as error:
            _logger.warning("replica %s did not survive the controller: %s", id, error)
            await self._fleet.abandon([replica])
            return
        # It answers, so it counts; whether it is well is for its probes to find.
        self._fleet.watch(replica)
        if wanted.revision != revision:
            self._fleet.unroute([replica])
            self._spawn(self._fleet.retire([replica]))


def _code_key(backend: Backend) -> str:
    return f"code/{backend.name}/{backend.revision}"
