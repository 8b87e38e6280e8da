"""The controller: keeps the wanted state, makes the processes follow it, and publishes the routing table.

Rule 1: no request passes through the controller.
Rule 2: a change is checkpointed before it is acted on or published. A refused change leaves everything as it was.
Rule 3: the changes of one backend happen one after another (see `backend_changes`).
Rule 4: a recovering controller takes over the running replicas and proxies. Before it has counted them, it publishes
    nothing and accepts no change.
Rule 5: a change completes even if its caller disconnects. Only `shutdown` cancels it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, Final

from serve_bridge.controller.backend_changes import BackendChanges
from serve_bridge.controller.checkpoint import Checkpoint, Checkpoints
from serve_bridge.controller.committed_state import CommittedState
from serve_bridge.controller.contact import Contact
from serve_bridge.controller.deployment_changes import DeploymentChanges
from serve_bridge.controller.deployments import Deployments
from serve_bridge.controller.differences import differences
from serve_bridge.controller.ending import Ending
from serve_bridge.controller.endpoint_changes import EndpointChanges
from serve_bridge.controller.engine_facts import engine_facts
from serve_bridge.controller.kept_state import KeptState
from serve_bridge.controller.key_renewal import KeyRenewal
from serve_bridge.controller.lease import Lease
from serve_bridge.controller.listening import listening_instance
from serve_bridge.controller.proxies import Proxies
from serve_bridge.controller.replica_launches import ReplicaLaunches
from serve_bridge.controller.replicas import Replicas
from serve_bridge.controller.runtime import Runtime
from serve_bridge.controller.status import Status
from serve_bridge.controller.table_publisher import asked_by
from serve_bridge.controller.tracked_replica import TrackedReplica
from serve_bridge.errors import ControlPlaneLost
from serve_bridge.instance import instance_file as instances
from serve_bridge.instance import remote_instance
from serve_bridge.instance.instance import Instance
from serve_bridge.instance.operations import Operation
from serve_bridge.process.backoff import Backoff
from serve_bridge.process.task_set import TaskSet
from serve_bridge.specs import InstanceSpec
from serve_bridge.wire import calls_answered
from serve_bridge.wire.address import CONTROLLER
from serve_bridge.wire.file_keeper import FileKeeper
from serve_bridge.wire.frames import Frame, Kind
from serve_bridge.wire.handshake import any_generation, identity
from serve_bridge.wire.heads import CallHead
from serve_bridge.wire.keys import Key, Role
from serve_bridge.wire.listener import Listener
from serve_bridge.wire.replica_end import ReplicaStream

END_AGAIN: Final = Backoff(shortest_s=1.0, longest_s=10.0)
"""Waits between the tries to shut down an instance without a holder, in seconds."""
_logger = logging.getLogger("serve_bridge.controller")


class Controller:
    """Runs one instance, on the event loop of `start`."""

    def __init__(self, spec: InstanceSpec, key: Key, runtime: Runtime) -> None:
        self._spec = spec
        self._key = key = key.with_tls(spec.network.tls(spec.name))
        self._runtime = runtime
        alias = identity(any_generation(spec.name), CONTROLLER)
        self._listener = Listener(self, key, spec.generation, CONTROLLER, alias=alias)
        contact = Contact(key, spec.generation, runtime.has_ended)
        self._replicas = Replicas(
            runtime,
            contact,
            on_change=self._replica_changed,
            on_end=lambda replica, how: self._backends.replica_ended(replica, how),
        )
        self._launches = ReplicaLaunches(spec, key, runtime, self._replicas)
        self._proxies = Proxies(
            spec, key, runtime, contact, on_change=lambda: self._tasks.start(self._proxies_changed())
        )
        self._renewal = KeyRenewal(
            spec, key, runtime.store, self._listener, self._replicas, self._proxies, on_change=self._keys_changed
        )
        self._checkpoints = Checkpoints(runtime.store, spec.name)
        self._kept = KeptState(spec.name, spec.state, fresh=spec.fresh)
        self._state = CommittedState(spec.generation, self._checkpoints, self._kept, self._replicas, self._proxies)
        self._backends = BackendChanges(self._state, self._checkpoints, self._replicas, self._launches)
        self._endpoints = EndpointChanges(self._state)
        self._deployments = Deployments()
        self._deployment_changes = DeploymentChanges(self._state, self._backends, self._deployments)
        self._status = Status(
            spec.name,
            self._state,
            self._replicas,
            self._proxies,
            self._backends.repairs,
            self._deployments,
            self._backends.progress,
        )
        self._lease = Lease(spec.name, lambda: self._tasks.start(self._end_without_holder()))
        self._files = FileKeeper(
            f"a file of instance {spec.name!r}",
            _logger,
            lambda: instances.are_missing(self._instance),
            self._write_files,
        )
        self._tasks = TaskSet(_logger)
        steps = (self._backends.close, self._proxies.stop, self._replicas.end, self._forget)
        self._ending = Ending(spec, key, self._checkpoints, self._kept, steps, on_end=self._end)
        self._operations: dict[str, Callable[..., Awaitable[Any]]] = {
            Operation.CREATE_BACKEND: self._backends.create_backend,
            Operation.UPDATE_BACKEND: self._backends.update_backend,
            Operation.UPDATE_BACKEND_CONFIG: self._backends.update_backend_config,
            Operation.DELETE_BACKEND: self._backends.delete_backend,
            Operation.LIST_BACKENDS: self._backends.list_backends,
            Operation.CREATE_ENDPOINT: self._endpoints.create_endpoint,
            Operation.DECLARE_ENDPOINTS: self._endpoints.declare_endpoints,
            Operation.DELETE_ENDPOINT: self._endpoints.delete_endpoint,
            Operation.LIST_ENDPOINTS: self._endpoints.list_endpoints,
            Operation.SET_TRAFFIC: self._endpoints.set_traffic,
            Operation.SHADOW_TRAFFIC: self._endpoints.shadow_traffic,
            Operation.HOLD_DEPLOYMENT: self._deployments.hold,
            Operation.BEGIN_DEPLOYMENT: self._deployment_changes.begin_deployment,
            Operation.NOTE_DEPLOYMENT: self._deployment_changes.note_deployment,
            Operation.END_DEPLOYMENT: self._deployment_changes.end_deployment,
            Operation.STATUS: self._status.collect,
            Operation.DIAGNOSE: partial(engine_facts, runtime),
            Operation.EXPORT_STATE: self.export_state,
            Operation.DIFFERENCES: partial(differences, spec),
            Operation.LEASE: self._lease.hold,
            Operation.KEYS: self._renewal.renew,
            Operation.RENEW_BACKEND: self._backends.renew_backend,
            Operation.RENEW_PROXIES: self._proxies.renew,
            Operation.SHUTDOWN: self._ending.shutdown,
        }

    async def start(self) -> Instance:
        """Listen, and start the proxies or recover the state of a former controller. Return the instance.

        Raises:
            OSError, ValueError: A proxy cannot listen at its address, or the kept state cannot be written.
            ConfigError: The kept state of a former instance cannot be used.
        """
        await self._renewal.restore()
        checkpoint = await self._checkpoints.load()
        if checkpoint is not None:
            await self._recover(checkpoint)
        else:
            await self._restore()
        # Listen only now: an earlier change would start from an empty state, and overwrite the old checkpoint.
        try:
            self._instance = await listening_instance(self._spec, self._state, self._listener, self._key)
        except BaseException:
            self._kept.close()
            raise
        self._launches.begin(self._instance)
        if checkpoint is not None:
            await self._resume(checkpoint)
        else:
            await self._begin()
        self._files.begin()
        if not self._spec.detached:
            self._lease.expect()
        return self._instance

    async def _begin(self) -> None:
        """Begin a new instance: publish its table, start the proxies, write its file, and start restored backends.

        The proxies know the restored routes from their first request on, and answer 503 until replicas are ready.
        """
        try:
            await self._state.publish()
            await self._proxies.start(self._spec.http, self._instance.controller)
            await self._state.begin()
            instances.write(self._instance)
        except BaseException:
            await self._proxies.stop()
            self.close()
            await self._forget()
            raise
        self._backends.repair_all()

    async def _restore(self) -> None:
        """Take over the kept state of a former instance, if there is one."""
        try:
            wanted = await self._kept.open()
        except BaseException:
            self._kept.close()
            raise
        if wanted is not None:
            self._state.wanted = wanted
            self._state.restoring = set(wanted.backends)

    async def _recover(self, checkpoint: Checkpoint) -> None:
        """Take over the state, the replicas and the proxies of a former controller."""
        self._state.restore(checkpoint)
        backends = self._state.wanted.backends
        await asyncio.gather(
            *(self._replicas.recover(found, backends.get(found.backend)) for found in checkpoint.replicas),
            *(self._proxies.recover(found) for found in checkpoint.proxies),
        )

    async def _resume(self, checkpoint: Checkpoint) -> None:
        """Continue the work of a former controller, whose replicas and proxies have been counted."""
        await self._state.publish()
        self._proxies.resume(replace(self._spec.http, port=checkpoint.http_port), self._instance.controller)
        self._backends.repair_all()
        await self._state.save()
        await self._kept.reopen(self._state.wanted)
        instances.write(self._instance)
        self._tasks.start(self._announce())

    async def _announce(self) -> None:
        """Publish the controller's new address to its processes, and in the instance's files."""
        await asyncio.gather(
            self._replicas.announce(self._instance.controller),
            self._proxies.announce(),
            self._runtime.update_files(self._instance),
        )

    @property
    def is_ending(self) -> bool:
        """Whether the instance shuts down, or will soon, because its starter has gone."""
        return self._ending.has_begun or self._lease.is_lapsing

    # wire.replica_end.Service

    def load(self) -> int:
        """Return the number of running operations."""
        return len(self._tasks)

    def accept(self, stream: ReplicaStream, frame: Frame, role: Role) -> None:
        """Accept a subscription to the routing table (REQUEST) or an operation (CALL)."""
        if frame.kind == Kind.REQUEST:
            if frame.payload == remote_instance.QUESTION:
                stream.respond(remote_instance.facts_of(self._instance), end=True)
                return
            self._serve(stream, self._state.publisher.serve(stream, str(frame.payload, "latin-1")))
            return
        if role not in (Role.PYTHON, Role.MANAGE):
            stream.reject("not allowed", "operations need the role manage")
            return
        head = calls_answered.decode_call(frame.payload)
        operation = self._operations.get(head.call_method)
        if operation is None:
            stream.reject("not exposed", head.call_method)
        elif head.call_method == Operation.KEYS and role is not Role.PYTHON:
            stream.reject("not allowed", "only a process with the secret may renew keys")
        elif self._ending.has_begun and head.call_method not in (Operation.SHUTDOWN, Operation.LIST_BACKENDS):
            stream.reject("closing", "the instance is shutting down")
        else:
            answer = self._answer(stream, head, operation)
            if Operation(head.call_method).is_held:  # these end with their caller, unlike changes (Rule 5)
                self._serve(stream, answer)
            else:
                self._tasks.start(answer)

    async def _answer(self, stream: ReplicaStream, head: CallHead, operation: Callable[..., Awaitable[Any]]) -> None:
        """Run *operation*; send its result, and the version of a routing table with its effect."""

        async def versioned(*args: Any, **kwargs: Any) -> tuple[int, Any]:
            result = await operation(*args, **kwargs)
            return self._state.version, result

        asked_by.set(head.submitter or None)  # in this task's context only
        await calls_answered.answer_control(stream, head, versioned)

    def _serve(self, stream: ReplicaStream, work: Coroutine[Any, Any, Any]) -> None:
        """Run *work* until it ends or *stream* does; then end the other one too."""
        task = self._tasks.start(work)
        stream.on_cancel = task.cancel
        task.add_done_callback(lambda _: stream.abort())

    # the instance

    async def export_state(self, with_code: bool = False) -> bytes:
        """Return the wanted state as a document; see `state.document`. With code, it needs no other file."""
        return await self._kept.exported(self._state.wanted, with_code=with_code)

    async def _keys_changed(self) -> None:
        """Let new replicas and new clients have the new keys."""
        self._instance = self._instance.with_key(self._key)
        self._launches.begin(self._instance)
        instances.write(self._instance)
        await self._runtime.update_files(self._instance)

    async def _end_without_holder(self) -> None:
        """Shut down, as soon as the runtime can end processes."""
        for wait_s in END_AGAIN.waits_s():
            try:
                await self._ending.shutdown(forget=False)
            except ControlPlaneLost as error:
                _logger.warning("instance %r cannot end yet: %s", self._spec.name, error)
                await asyncio.sleep(wait_s)
            else:
                return

    async def _write_files(self) -> None:
        instances.write_missing(self._instance)

    async def _forget(self) -> None:
        self._lease.close()
        self._files.close()
        self._listener.stop_keeping()
        instances.remove(self._instance)
        await self._checkpoints.forget()
        await self._runtime.remove_files(self._instance)

    def _end(self) -> None:
        self.close()
        self._tasks.start(self._runtime.end())

    def close(self) -> None:
        """Close every connection. Replicas and proxies keep running."""
        self._files.close()
        self._state.close()
        self._replicas.close()
        self._listener.close()
        self._kept.close()

    def _replica_changed(self, replica: TrackedReplica) -> None:
        """Publish that a replica was lost or has another health, and replace it if necessary."""
        if self._ending.has_begun:
            return
        self._tasks.start(self._state.publish())
        self._backends.replica_changed(replica)

    async def _proxies_changed(self) -> None:
        """Publish and checkpoint a new proxy: routers may ask it for the controller, and a next controller needs it."""
        if not self._ending.has_begun:
            await self._state.publish()
            await self._state.save()
