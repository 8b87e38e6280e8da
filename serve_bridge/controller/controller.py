"""The controller: keeps what users want, makes it so, and publishes the routing table.

Rule 1: never on a request's path.
Rule 2: a change is checkpointed before it is acted on or published; a refused change leaves everything as it was.
Rule 3: changes of one backend happen one after another.
Rule 4: a recovering controller adopts the replicas and proxies it finds, and neither publishes nor takes a change
        before it has counted them.
Rule 5: a change that has begun is seen through, whatever becomes of who asked for it; only `shutdown` ends it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.config.http_options import HTTPOptions, http_differences
from serve_bridge.controller.checkpoint import Checkpoint, Checkpoints
from serve_bridge.controller.committed_state import Record
from serve_bridge.controller.deployments import Deployments
from serve_bridge.controller.lease import Lease
from serve_bridge.controller.lifecycle import ReplicaState
from serve_bridge.controller.proxies import Proxies
from serve_bridge.controller.repairs import Repairs
from serve_bridge.controller.replicas import Fleet, Replica
from serve_bridge.controller.runtime import Runtime
from serve_bridge.controller.table_publisher import asked_by
from serve_bridge.controller.wanted_state import Unfinished
from serve_bridge.instance import instance_file as instances
from serve_bridge.instance.instance_file import Instance
from serve_bridge.specs import Backend, DeclaredEndpoint, Origin, Settings
from serve_bridge.wire import calls_made as calls
from serve_bridge.wire import payload
from serve_bridge.wire.address import CONTROLLER
from serve_bridge.wire.auth import Key, Role
from serve_bridge.wire.frames import Frame, Kind
from serve_bridge.wire.heads import CallHead
from serve_bridge.wire.listener import Listener
from serve_bridge.wire.replica_end import ReplicaStream

_STARTING, _READY, _UNHEALTHY = ReplicaState.STARTING, ReplicaState.READY, ReplicaState.UNHEALTHY
_logger = logging.getLogger("serve_bridge.controller")


class Controller:
    """Runs one instance; `start` it on the loop it is to live on."""

    def __init__(self, settings: Settings, key: Key, runtime: Runtime) -> None:
        self._settings = settings
        self._key = key
        self._runtime = runtime
        self._listener = Listener(self, key, settings.generation, CONTROLLER)
        self._fleet = Fleet(
            runtime,
            key,
            generation=settings.generation,
            directory=settings.directory,
            tcp_host=settings.tcp_host,
            on_change=self._fleet_changed,
            on_end=self._replica_ended,
        )
        self._proxies = Proxies(
            runtime,
            key,
            generation=settings.generation,
            directory=settings.directory,
            tcp_host=settings.tcp_host,
            on_change=lambda: self._spawn(self._proxies_changed()),
        )
        self._checkpoints = Checkpoints(runtime.store, settings.name)
        self._record = Record(settings.generation, self._checkpoints, self._fleet, self._proxies)
        self._repairs = Repairs(self._repair)
        self._deployments = Deployments()
        self._lease = Lease(settings.name, lambda: self._spawn(self.shutdown()))
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._changes: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._operations: dict[str, Callable[..., Awaitable[Any]]] = {
            "create_backend": self.create_backend,
            "update_backend": self.update_backend,
            "update_backend_config": self.update_backend_config,
            "delete_backend": self.delete_backend,
            "list_backends": self.list_backends,
            "create_endpoint": self.create_endpoint,
            "declare_endpoints": self.declare_endpoints,
            "delete_endpoint": self.delete_endpoint,
            "list_endpoints": self.list_endpoints,
            "set_traffic": self.set_traffic,
            "shadow_traffic": self.shadow_traffic,
            "hold_deployment": self._deployments.hold,
            "begin_deployment": self.begin_deployment,
            "note_deployment": self.note_deployment,
            "end_deployment": self.end_deployment,
            "status": self.status,
            "differences": self.differences,
            "lease": self._lease.hold,
            "shutdown": self.shutdown,
        }

    async def start(self) -> Instance:
        """Listen, recover what a predecessor left or begin afresh, start the proxies; return how to be found.

        Raises:
            OSError, ValueError: A proxy cannot listen where it should.
        """
        checkpoint = await self._checkpoints.load()
        if checkpoint is not None:
            await self._recover(checkpoint)
        # Not before: a change that came now would be made to nothing, and checkpointed so.
        self._instance = await self._listen()
        self._fleet.begin(self._instance)
        if checkpoint is not None:
            await self._resume(checkpoint)
        else:
            await self._begin()
        if not self._settings.detached:
            self._lease.expect()
        return self._instance

    async def _listen(self) -> Instance:
        settings, record = self._settings, self._record
        address = await self._listener.listen(Path(settings.directory), settings.tcp_host, record.tcp_port)
        record.tcp_port = address.tcp[1] if address.tcp else 0
        return Instance(
            name=settings.name,
            generation=settings.generation,
            runtime=settings.runtime,
            directory=settings.directory,
            controller=address,
            secret=self._key.text,
        )

    async def _begin(self) -> None:
        """Publish an empty table, start the proxies, and let the instance be found."""
        try:
            await self._record.publish()
            await self._proxies.start(self._settings.http, self._instance.controller)
            await self._record.save()
            instances.write(self._instance)
        except BaseException:
            await self._proxies.stop()
            self.close()
            await self._forget()
            raise

    # recovery

    async def _recover(self, checkpoint: Checkpoint) -> None:
        """Take over what a predecessor has started."""
        self._record.restore(checkpoint)
        backends = self._record.wanted.backends
        await asyncio.gather(
            *(self._fleet.recover(found, backends.get(found.backend)) for found in checkpoint.replicas),
            *(self._proxies.adopt(found) for found in checkpoint.proxies),
        )

    async def _resume(self, checkpoint: Checkpoint) -> None:
        """Go on where a predecessor ended; what it had running is known by now."""
        await self._record.publish()
        self._proxies.resume(replace(self._settings.http, port=checkpoint.http_port), self._instance.controller)
        for name in self._record.wanted.backends:
            self._repairs.begin(name)
        await self._record.save()
        instances.write(self._instance)
        self._spawn(self._announce())

    async def _announce(self) -> None:
        """Tell who may look for the controller where it is now."""
        await asyncio.gather(
            self._fleet.announce(), self._proxies.announce(), self._runtime.update_files(self._instance)
        )

    @property
    def is_ending(self) -> bool:
        """Whether the instance shuts down, or is about to because the process that started it has gone."""
        return self._closing or self._lease.is_lapsing

    # wire.replica_end.Service

    def load(self) -> int:
        """Return how many operations are running."""
        return len(self._tasks)

    def accept(self, stream: ReplicaStream, frame: Frame, role: Role) -> None:
        """Take a subscription (REQUEST) or an operation (CALL)."""
        if frame.kind == Kind.REQUEST:
            self._spawn(self._record.publisher.serve(stream, str(frame.payload, "latin-1")), stream)
            return
        head = calls.decode_call(frame.payload)
        operation = self._operations.get(head.call_method)
        if operation is None:
            stream.reject("not exposed", head.call_method)
        elif self._closing and head.call_method != "shutdown":
            stream.reject("closing", "the instance is shutting down")
        else:
            # Only what a process holds ends with it (Rule 5).
            held = stream if head.call_method in ("lease", "hold_deployment") else None
            self._spawn(self._answer(stream, head, operation), held)

    async def _answer(self, stream: ReplicaStream, head: CallHead, operation: Callable[..., Awaitable[Any]]) -> None:
        """Run *operation* and send its result, with the version of the table that has it."""

        async def versioned(*args: Any, **kwargs: Any) -> tuple[int, Any]:
            result = await operation(*args, **kwargs)
            return self._record.version, result

        asked_by.set(head.submitter or None)  # in the context of this task alone
        await calls.answer_control(stream, head, versioned)

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
            self._record.wanted.check_free(backend.name)
            await self._launch(backend, backend.config.num_replicas)
            await self._record.change(lambda wanted: wanted.backends.update({backend.name: backend}))

    async def update_backend(
        self,
        name: str,
        code: bytes,
        is_async: bool,
        config: BackendConfig | None,
        actor_options: payload.Opaque | None,
        is_application: bool = False,
        origin: Origin | None = None,
    ) -> None:
        """Replace *name*'s code: new replicas are ready before old ones drain. *origin* is given by a deployment.

        Raises:
            BackendNotFound: There is none.
            ConfigError: It would become an application, or no longer be one.
            BackendStartError: The new code cannot start; the old goes on serving.
        """
        async with self._changing(name):
            old = self._record.wanted.backend(name)
            old.check_same_kind(is_application)
            new = old.revised(code, is_async, config, actor_options, origin)
            await self._launch(new, new.config.num_replicas)
            await self._record.change(lambda wanted: wanted.backends.update({name: new}))
            await self._withdraw([r for r in self._fleet.of(name, _READY, _UNHEALTHY) if r.revision != new.revision])
            await self._checkpoints.forget_code(old)

    async def update_backend_config(
        self, name: str, config: BackendConfig, origin: Origin | None = None, code: bytes | None = None
    ) -> None:
        """Change the options of *name* that *config* was given; its replicas go on.

        *origin* and *code* are given by a deployment: the same code, which later replicas may import from another
        directory.

        Raises:
            BackendNotFound: There is none.
            ConfigError: The code cannot follow the new options; nothing has changed.
            BackendStartError: More replicas cannot start; the number has not changed.
        """
        async with self._changing(name):
            old = self._record.wanted.backend(name)
            new = replace(old, config=old.config.merged(config), origin=origin or old.origin, code=code or old.code)
            running = self._fleet.of(name, _READY, _UNHEALTHY)  # what must go is taken from the end
            await self._fleet.configure(running, old, new)
            try:
                await self._launch(new, new.config.num_replicas - len(running))
            except BaseException:
                await self._fleet.configure(running, new, old)
                raise
            if new.code != old.code:
                await self._checkpoints.save_code(new)
            await self._record.change(lambda wanted: wanted.backends.update({name: new}))
            if surplus := running[new.config.num_replicas :]:
                await self._withdraw(surplus)

    async def delete_backend(self, name: str, force: bool) -> None:
        """End *name*'s replicas once no router names them, with *force* without a drain; an unknown name is fine.

        Raises:
            ConfigError: A traffic policy names it.
        """
        async with self._changing(name):
            backend = await self._record.change(lambda wanted: wanted.delete_backend(name, force=force))
            if backend is not None:
                replicas = self._fleet.of(name, _READY, _UNHEALTHY)
                await (self._fleet.abandon(replicas) if force else self._withdraw(replicas))
                await self._checkpoints.forget_code(backend)

    async def list_backends(self) -> dict[str, BackendConfig]:
        """Return every backend's options, defaults filled in."""
        return {name: backend.resolved for name, backend in self._record.wanted.backends.items()}

    async def _launch(self, backend: Backend, count: int, *, all_or_none: bool = True) -> None:
        if count <= 0:
            return
        planned = self._fleet.plan(backend, count)
        try:
            await self._checkpoints.save_code(backend)
            await self._record.save()
        except BaseException:
            await self._fleet.abandon(planned)
            raise
        await self._fleet.launch(backend, planned, all_or_none=all_or_none)

    async def _withdraw(self, replicas: list[Replica]) -> None:
        """Unpublish *replicas*, then drain and end them."""
        # Unpublish first, then drain: a router that still holds the old table gets a REJECT, which loses nothing.
        self._fleet.unroute(replicas)
        await self._record.spread()
        await self._fleet.retire(replicas)

    # endpoints

    async def create_endpoint(
        self,
        name: str,
        backend: str,
        route: str | None,
        methods: tuple[str, ...] | None,
        timeout_s: float | None = None,
    ) -> None:
        """Let callers use *backend* under *name*; see `Wanted.create_endpoint`."""
        await self._record.change(lambda wanted: wanted.create_endpoint(name, backend, route, methods, timeout_s))

    async def declare_endpoints(self, declared: Sequence[DeclaredEndpoint], withdrawn: Sequence[str]) -> None:
        """Bring endpoints to what a deployment declares, all at once; see `Wanted.declare_endpoints`."""
        await self._record.change(lambda wanted: wanted.declare_endpoints(declared, withdrawn))

    async def delete_endpoint(self, name: str) -> None:
        """Take the endpoint away; an unknown name is fine."""
        await self._record.change(lambda wanted: wanted.endpoints.pop(name, None))

    async def list_endpoints(self) -> dict[str, dict[str, Any]]:
        """Return every endpoint's route, methods and traffic."""
        return self._record.wanted.describe_endpoints()

    async def set_traffic(self, endpoint: str, weights: Mapping[str, float]) -> None:
        """Replace an endpoint's split; see `Wanted.set_traffic`."""
        await self._record.change(lambda wanted: wanted.set_traffic(endpoint, weights))

    async def shadow_traffic(self, endpoint: str, backend: str, proportion: float) -> None:
        """Copy a share of an endpoint's requests; see `Wanted.shadow_traffic`."""
        await self._record.change(lambda wanted: wanted.shadow_traffic(endpoint, backend, proportion))

    # deployments

    async def begin_deployment(self, project: str, key: str, timeout_s: float) -> Unfinished | None:
        """Wait until the deployment *key* has the turn of *project*; return what an unfinished one before it left.

        A change that an interrupted deployment has begun is completed first.
        """
        await self._deployments.wait(project, key, timeout_s)
        unfinished = self._record.wanted.unfinished.get(project)
        for change in unfinished.begun if unfinished is not None else ():
            async with self._lock(change.rpartition(" ")[2]):
                pass
        return unfinished

    async def note_deployment(self, unfinished: Unfinished) -> None:
        """Remember how far a deployment has come."""
        await self._record.note(lambda wanted: wanted.unfinished.update({unfinished.project: unfinished}))

    async def end_deployment(self, project: str) -> None:
        """Forget the deployment of *project*, which has ended."""
        await self._record.note(lambda wanted: wanted.unfinished.pop(project, None))

    # the instance

    async def status(self) -> dict[str, Any]:
        """Return what runs: nodes, proxies and what they counted, what `_describe` says of each backend, endpoints."""
        return {
            "name": self._settings.name,
            "nodes": await self._proxies.nodes(),
            "http_urls": self._proxies.urls,
            "proxies": await self._proxies.statistics(),
            "table_version": self._record.version,
            "backends": {name: self._describe(backend) for name, backend in self._record.wanted.backends.items()},
            "endpoints": {
                name: {**described, **_of_origin(self._record.wanted.endpoints[name].origin)}
                for name, described in self._record.wanted.describe_endpoints().items()
            },
            "deployments": [
                {
                    "project": each.project,
                    "begun_at": each.time,
                    "running": self._deployments.runs(each.project),
                    "begun": list(each.begun),
                    "left": list(each.left),
                    "failure": each.failure or None,
                }
                for each in self._record.wanted.unfinished.values()
            ],
        }

    async def differences(self, http: HTTPOptions, detached: bool) -> list[str]:
        """Return in what the options that the instance was started with differ from these."""
        was = self._settings.detached
        own = [] if was == detached else [f"detached is {was}, not {detached}"]
        return [*own, *http_differences(self._settings.http, http)]

    def _describe(self, backend: Backend) -> dict[str, Any]:
        """Return how many replicas a backend should have, those it has by state, why it lacks some, and its origin.

        Of a replica that was lost in the last minute "last_end" says how its process has ended.
        """
        replicas = {r.id: r.described for r in self._fleet.replicas.values() if r.backend == backend.name}
        setbacks = self._repairs.setbacks[backend.name]
        ready = self._fleet.of(backend.name, _READY)
        short = len(ready) < backend.config.num_replicas
        # One that dies as soon as it is ready has failed, although it is ready for a moment.
        over = not short and all(replica.has_lasted() for replica in ready)
        return {
            "wanted": backend.config.num_replicas,
            "replicas": replicas,
            "failure": (setbacks.reason or None) if short or (setbacks.is_news() and not over) else None,
            "failed": setbacks.failed() and not over,
            "last_end": setbacks.last_end(),
            **_of_origin(backend.origin),
            "fingerprint": backend.origin.fingerprint if backend.origin is not None else "",
            "declared": list(backend.origin.declared) if backend.origin is not None else [],
            "search_path": list(backend.origin.search_path) if backend.origin is not None else [],
        }

    async def shutdown(self) -> None:
        """Drain and end proxies and replicas, forget everything, and end."""
        if self._closing:
            return
        self._closing = True
        self._lease.close()
        changes = {*self._repairs.close(), *self._changes} - {asyncio.current_task()}
        for change in changes:
            change.cancel()
        await asyncio.gather(*changes, return_exceptions=True)
        for step in (self._proxies.stop, self._fleet.end, self._forget):
            try:
                await step()
            except Exception:  # whatever cannot be ended must not keep the rest alive
                _logger.exception("instance %r: shutdown", self._settings.name)
        asyncio.get_running_loop().call_later(0.05, self._end)  # once the answer is out

    async def _forget(self) -> None:
        instances.remove(self._instance)
        await self._checkpoints.forget()
        await self._runtime.remove_files(self._instance)

    def _end(self) -> None:
        self.close()
        self._spawn(self._runtime.end())

    def close(self) -> None:
        """Drop every connection; what runs goes on running."""
        self._fleet.close()
        self._listener.close()

    # keeping it so

    def _lock(self, name: str) -> asyncio.Lock:
        """Return the lock of backend *name*. It exists only while it is used, since callers may name any backend."""
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock

    @asynccontextmanager
    async def _changing(self, name: str) -> AsyncIterator[None]:
        """Change backend *name*, alone; what is missing of it afterwards is repaired."""
        task = asyncio.current_task()
        assert task is not None
        self._changes.add(task)
        # A user who corrects a backend must not wait for replicas of the wrong one that hang while they start.
        self._repairs.interrupt(name)
        try:
            async with self._lock(name):
                yield
        finally:
            self._changes.discard(task)
            self._repairs.begin(name)

    def _fleet_changed(self, replica: Replica) -> None:
        """A replica was lost or changed its health: tell the routers, and make up for it."""
        if self._closing:
            return
        if replica.crashed():
            self._repairs.setbacks[replica.backend].note(f"replica {replica.id} died as soon as it was ready")
        self._spawn(self._record.publish())
        self._repairs.begin(replica.backend)

    def _replica_ended(self, replica: Replica, how: str) -> None:
        """A replica was lost, and now it is known how its process has ended."""
        soon = " as soon as it was ready" if replica.crashed() else ""
        self._repairs.setbacks[replica.backend].tell(f"replica {replica.id} ended with {how}{soon}")

    async def _proxies_changed(self) -> None:
        """A proxy has come: routers may ask it where the controller is, and a successor must know it."""
        if not self._closing:
            await self._record.publish()
            await self._record.save()

    async def _repair(self, name: str) -> bool:
        """Make one try to bring *name* to its number of replicas; return whether nothing is left to do."""
        async with self._lock(name):
            backend = self._record.wanted.backends.get(name)
            if backend is None:
                self._repairs.setbacks.pop(name, None)
                return True
            running = self._fleet.of(name, _STARTING, _READY, _UNHEALTHY)
            missing = backend.config.num_replicas - len(running)
            if missing < 0:  # a predecessor had not come to it
                await self._withdraw(running[missing:])
            if missing <= 0:
                return True
            try:
                await self._launch(backend, missing, all_or_none=False)
            except Exception as error:  # whatever it is: giving up would leave the backend short for ever
                self._repairs.setbacks[name].note(str(error))
                _logger.warning("backend %r: %s", name, error)
            await self._record.publish()
            await self._record.save()
            return False


def _of_origin(origin: Origin | None) -> dict[str, Any]:
    """Return the project that deployed something, the version, and the time; None: it was made by hand."""
    if origin is None:
        return {"owner": None, "version": None, "deployed_at": None}
    return {"owner": origin.owner, "version": origin.version or None, "deployed_at": origin.time}
