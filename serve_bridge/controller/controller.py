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
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from serve_bridge.config.http_options import HTTPOptions, http_differences
from serve_bridge.controller.backend_changes import BackendChanges
from serve_bridge.controller.checkpoint import Checkpoint, Checkpoints
from serve_bridge.controller.committed_state import CommittedState
from serve_bridge.controller.contact import Contact
from serve_bridge.controller.deployments import Deployments
from serve_bridge.controller.lease import Lease
from serve_bridge.controller.proxies import Proxies
from serve_bridge.controller.replica_launches import ReplicaLaunches
from serve_bridge.controller.replicas import Replicas
from serve_bridge.controller.runtime import Runtime
from serve_bridge.controller.status import Status
from serve_bridge.controller.table_publisher import asked_by
from serve_bridge.controller.tracked_replica import TrackedReplica
from serve_bridge.instance import instance_file as instances
from serve_bridge.instance.instance import Instance
from serve_bridge.instance.operations import Operation
from serve_bridge.process.task_set import TaskSet
from serve_bridge.specs import DeclaredEndpoint, InstanceSpec, UnfinishedDeployment
from serve_bridge.wire import calls_answered
from serve_bridge.wire.address import CONTROLLER
from serve_bridge.wire.frames import Frame, Kind
from serve_bridge.wire.heads import CallHead
from serve_bridge.wire.keys import Key, Role
from serve_bridge.wire.listener import Listener
from serve_bridge.wire.replica_end import ReplicaStream

_logger = logging.getLogger("serve_bridge.controller")


class Controller:
    """Runs one instance; `start` it on the loop it is to live on."""

    def __init__(self, spec: InstanceSpec, key: Key, runtime: Runtime) -> None:
        self._spec = spec
        self._key = key
        self._runtime = runtime
        self._listener = Listener(self, key, spec.generation, CONTROLLER)
        contact = Contact(key, spec.generation, runtime.has_ended)
        self._replicas = Replicas(runtime, contact, on_change=self._replica_changed, on_end=self._replica_ended)
        self._launches = ReplicaLaunches(spec, key, runtime, self._replicas)
        self._proxies = Proxies(
            spec, key, runtime, contact, on_change=lambda: self._tasks.start(self._proxies_changed())
        )
        self._checkpoints = Checkpoints(runtime.store, spec.name)
        self._state = CommittedState(spec.generation, self._checkpoints, self._replicas, self._proxies)
        self._backends = BackendChanges(self._state, self._checkpoints, self._replicas, self._launches)
        self._deployments = Deployments()
        self._status = Status(
            spec.name, self._state, self._replicas, self._proxies, self._backends.repairs, self._deployments
        )
        self._lease = Lease(spec.name, lambda: self._tasks.start(self.shutdown()))
        self._tasks = TaskSet(_logger)
        self._closing = False
        self._operations: dict[str, Callable[..., Awaitable[Any]]] = {
            Operation.CREATE_BACKEND: self._backends.create_backend,
            Operation.UPDATE_BACKEND: self._backends.update_backend,
            Operation.UPDATE_BACKEND_CONFIG: self._backends.update_backend_config,
            Operation.DELETE_BACKEND: self._backends.delete_backend,
            Operation.LIST_BACKENDS: self._backends.list_backends,
            Operation.CREATE_ENDPOINT: self.create_endpoint,
            Operation.DECLARE_ENDPOINTS: self.declare_endpoints,
            Operation.DELETE_ENDPOINT: self.delete_endpoint,
            Operation.LIST_ENDPOINTS: self.list_endpoints,
            Operation.SET_TRAFFIC: self.set_traffic,
            Operation.SHADOW_TRAFFIC: self.shadow_traffic,
            Operation.HOLD_DEPLOYMENT: self._deployments.hold,
            Operation.BEGIN_DEPLOYMENT: self.begin_deployment,
            Operation.NOTE_DEPLOYMENT: self.note_deployment,
            Operation.END_DEPLOYMENT: self.end_deployment,
            Operation.STATUS: self._status.collect,
            Operation.DIFFERENCES: self.differences,
            Operation.LEASE: self._lease.hold,
            Operation.SHUTDOWN: self.shutdown,
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
        self._launches.begin(self._instance)
        if checkpoint is not None:
            await self._resume(checkpoint)
        else:
            await self._begin()
        if not self._spec.detached:
            self._lease.expect()
        return self._instance

    async def _listen(self) -> Instance:
        spec, state = self._spec, self._state
        address = await self._listener.listen(Path(spec.directory), spec.tcp_host, state.tcp_port)
        state.tcp_port = address.tcp[1] if address.tcp else 0
        return Instance(
            name=spec.name,
            generation=spec.generation,
            runtime=spec.runtime,
            directory=spec.directory,
            controller=address,
            secret=self._key.text,
        )

    async def _begin(self) -> None:
        """Publish an empty table, start the proxies, and let the instance be found."""
        try:
            await self._state.publish()
            await self._proxies.start(self._spec.http, self._instance.controller)
            await self._state.save()
            instances.write(self._instance)
        except BaseException:
            await self._proxies.stop()
            self.close()
            await self._forget()
            raise

    # recovery

    async def _recover(self, checkpoint: Checkpoint) -> None:
        """Take over what a predecessor has started."""
        self._state.restore(checkpoint)
        backends = self._state.wanted.backends
        await asyncio.gather(
            *(self._replicas.recover(found, backends.get(found.backend)) for found in checkpoint.replicas),
            *(self._proxies.recover(found) for found in checkpoint.proxies),
        )

    async def _resume(self, checkpoint: Checkpoint) -> None:
        """Go on where a predecessor ended; what it had running is known by now."""
        await self._state.publish()
        self._proxies.resume(replace(self._spec.http, port=checkpoint.http_port), self._instance.controller)
        self._backends.repair_all()
        await self._state.save()
        instances.write(self._instance)
        self._tasks.start(self._announce())

    async def _announce(self) -> None:
        """Tell who may look for the controller where it is now."""
        await asyncio.gather(
            self._replicas.announce(self._instance.controller),
            self._proxies.announce(),
            self._runtime.update_files(self._instance),
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
            self._serve(stream, self._state.publisher.serve(stream, str(frame.payload, "latin-1")))
            return
        head = calls_answered.decode_call(frame.payload)
        operation = self._operations.get(head.call_method)
        if operation is None:
            stream.reject("not exposed", head.call_method)
        elif self._closing and head.call_method != Operation.SHUTDOWN:
            stream.reject("closing", "the instance is shutting down")
        else:
            answer = self._answer(stream, head, operation)
            if Operation(head.call_method).is_held:  # only these end with the process (Rule 5)
                self._serve(stream, answer)
            else:
                self._tasks.start(answer)

    async def _answer(self, stream: ReplicaStream, head: CallHead, operation: Callable[..., Awaitable[Any]]) -> None:
        """Run *operation* and send its result, with the version of the table that has it."""

        async def versioned(*args: Any, **kwargs: Any) -> tuple[int, Any]:
            result = await operation(*args, **kwargs)
            return self._state.version, result

        asked_by.set(head.submitter or None)  # in the context of this task alone
        await calls_answered.answer_control(stream, head, versioned)

    def _serve(self, stream: ReplicaStream, work: Coroutine[Any, Any, Any]) -> None:
        """Run *work* for as long as *stream* lives."""
        task = self._tasks.start(work)
        stream.on_cancel = task.cancel
        task.add_done_callback(lambda _: stream.abort())

    # endpoints

    async def create_endpoint(
        self,
        name: str,
        backend: str,
        route: str | None,
        methods: tuple[str, ...] | None,
        timeout_s: float | None = None,
    ) -> None:
        """Let callers use *backend* under *name*; see `WantedState.create_endpoint`."""
        await self._state.change(lambda wanted: wanted.create_endpoint(name, backend, route, methods, timeout_s))

    async def declare_endpoints(self, declared: Sequence[DeclaredEndpoint], withdrawn: Sequence[str]) -> None:
        """Bring endpoints to what a deployment declares, all at once; see `WantedState.declare_endpoints`."""
        await self._state.change(lambda wanted: wanted.declare_endpoints(declared, withdrawn))

    async def delete_endpoint(self, name: str) -> None:
        """Take the endpoint away; an unknown name is fine."""
        await self._state.change(lambda wanted: wanted.endpoints.pop(name, None))

    async def list_endpoints(self) -> dict[str, dict[str, Any]]:
        """Return every endpoint's route, methods and traffic."""
        return self._state.wanted.describe_endpoints()

    async def set_traffic(self, endpoint: str, weights: Mapping[str, float]) -> None:
        """Replace an endpoint's split; see `WantedState.set_traffic`."""
        await self._state.change(lambda wanted: wanted.set_traffic(endpoint, weights))

    async def shadow_traffic(self, endpoint: str, backend: str, proportion: float) -> None:
        """Copy a share of an endpoint's requests; see `WantedState.shadow_traffic`."""
        await self._state.change(lambda wanted: wanted.shadow_traffic(endpoint, backend, proportion))

    # deployments

    async def begin_deployment(self, project: str, key: str, timeout_s: float) -> UnfinishedDeployment | None:
        """Wait until the deployment *key* has the turn of *project*; return what an unfinished one before it left.

        A change that an interrupted deployment has begun is completed first.
        """
        await self._deployments.wait(project, key, timeout_s)
        unfinished = self._state.wanted.unfinished.get(project)
        for change in unfinished.begun if unfinished is not None else ():
            await self._backends.completed(change.rpartition(" ")[2])
        return unfinished

    async def note_deployment(self, unfinished: UnfinishedDeployment) -> None:
        """Remember how far a deployment has come."""
        await self._state.note(lambda wanted: wanted.unfinished.update({unfinished.project: unfinished}))

    async def end_deployment(self, project: str) -> None:
        """Forget the deployment of *project*, which has ended."""
        await self._state.note(lambda wanted: wanted.unfinished.pop(project, None))

    # the instance

    async def differences(self, http: HTTPOptions, detached: bool) -> list[str]:
        """Return in what the options that the instance was started with differ from these."""
        was = self._spec.detached
        own = [] if was == detached else [f"detached is {was}, not {detached}"]
        return [*own, *http_differences(self._spec.http, http)]

    async def shutdown(self) -> None:
        """Drain and end proxies and replicas, forget everything, and end."""
        if self._closing:
            return
        self._closing = True
        self._lease.close()
        await self._backends.close()
        for step in (self._proxies.stop, self._replicas.end, self._forget):
            try:
                await step()
            except Exception:  # whatever cannot be ended must not keep the rest alive
                _logger.exception("instance %r: shutdown", self._spec.name)
        asyncio.get_running_loop().call_later(0.05, self._end)  # once the answer is out

    async def _forget(self) -> None:
        instances.remove(self._instance)
        await self._checkpoints.forget()
        await self._runtime.remove_files(self._instance)

    def _end(self) -> None:
        self.close()
        self._tasks.start(self._runtime.end())

    def close(self) -> None:
        """Drop every connection; what runs goes on running."""
        self._replicas.close()
        self._listener.close()

    # replicas and proxies report

    def _replica_changed(self, replica: TrackedReplica) -> None:
        """A replica was lost, or its health has changed: tell the routers, and replace it if need be."""
        if self._closing:
            return
        self._tasks.start(self._state.publish())
        self._backends.replica_changed(replica)

    def _replica_ended(self, replica: TrackedReplica, how: str) -> None:
        self._backends.replica_ended(replica, how)

    async def _proxies_changed(self) -> None:
        """A proxy has come: routers may ask it where the controller is, and a successor must know it."""
        if not self._closing:
            await self._state.publish()
            await self._state.save()
