"""The replicas of an instance: connected, watched, drained and ended.

Rule 1: the state of a replica changes by `lifecycle.advance` only.
Rule 2: a replica with requests is drained before it is ended. A hanging replica is ended at once. An unreachable
    replica is not ended: routers may still reach it (see `contact`).
Rule 3: nothing here decides how many replicas there should be; `backend_changes` does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping

from serve_bridge.controller.checkpoint import ReplicaSnapshot
from serve_bridge.controller.contact import Contact
from serve_bridge.controller.health_probes import HealthProbes
from serve_bridge.controller.lifecycle import ReplicaEvent, ReplicaState
from serve_bridge.controller.option_changes import catch_up
from serve_bridge.controller.runtime import Runtime
from serve_bridge.controller.tracked_replica import TrackedReplica
from serve_bridge.errors import AuthenticationError
from serve_bridge.process.task_set import TaskSet
from serve_bridge.specs import BackendSpec
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.caller_end import CallerConnection
from serve_bridge.wire.dialling import NoListener
from serve_bridge.wire.endings import Lost

_logger = logging.getLogger("serve_bridge.controller")


class Replicas:
    """The replicas of all backends, without stopped ones."""

    def __init__(
        self,
        runtime: Runtime,
        contact: Contact,
        *,
        on_change: Callable[[TrackedReplica], None],
        on_end: Callable[[TrackedReplica, str], None],
    ) -> None:
        """Report a lost replica, or one with another health, with *on_change*.

        *on_end* gets a lost replica and the way in which its process ended, once this is known.
        """
        self._runtime = runtime
        self._contact = contact
        self._on_change = on_change
        self._on_end = on_end
        self._probes = HealthProbes(on_change=on_change, retire=self._retire, end=self.end_at_once)
        self._tasks = TaskSet(_logger)
        self._controller: SocketAddress | None = None
        self._keys = ""
        self._by_id: dict[str, TrackedReplica] = {}
        self._ending: dict[str, ReplicaSnapshot] = {}

    def __iter__(self) -> Iterator[TrackedReplica]:
        return iter(list(self._by_id.values()))

    @property
    def snapshots(self) -> list[ReplicaSnapshot]:
        """The running, starting and ending replicas, for the checkpoint."""
        return [*(replica.snapshot for replica in self), *self._ending.values()]

    def of(self, backend: str, *states: ReplicaState) -> list[TrackedReplica]:
        """Return the replicas of *backend* in one of *states*."""
        return [r for r in self if r.backend == backend and r.state in states]

    def ready(self, revisions: Mapping[str, frozenset[int]]) -> dict[str, tuple[SocketAddress, ...]]:
        """Return the addresses of the ready replicas of these *revisions*, by backend."""
        found: dict[str, tuple[SocketAddress, ...]] = {}
        for replica in self:
            routed = replica.revision in revisions.get(replica.backend, ())
            if routed and replica.state is ReplicaState.READY and replica.address is not None:
                found[replica.backend] = (*found.get(replica.backend, ()), replica.address)
        return found

    # a replica begins

    def add(self, replica: TrackedReplica) -> None:
        """Take *replica* into the instance."""
        self._by_id[replica.id] = replica

    async def connect(self, replica: TrackedReplica) -> None:
        """Connect to *replica*, whose process has started.

        Raises:
            Lost, AuthenticationError: Its process has ended.
        """
        self._attach(replica, await self._contact.connect(replica))

    def _attach(self, replica: TrackedReplica, connection: CallerConnection) -> None:
        replica.attach(connection, lambda changed: self._connection_changed(replica, changed))

    def watch(self, replica: TrackedReplica) -> None:
        """Let the next routing table have *replica*, and probe it from now on."""
        replica.take(ReplicaEvent.PROBED)
        self._probes.start(replica)

    async def recover(self, found: ReplicaSnapshot, backend: BackendSpec | None) -> None:
        """Take over a replica of a former controller. If its *backend* is None, end it."""
        if backend is None or found.address is None:
            await self._runtime.stop(found.id)
            return
        replica = TrackedReplica(found.id, found.backend, found.revision, backend.resolved)
        replica.address = found.address
        self.add(replica)
        try:
            await self.connect(replica)
        except (NoListener, AuthenticationError) as error:
            _logger.warning("%s did not survive the controller: %s", replica, error)
            await self.end_at_once(replica)
            return
        except Lost:
            self._tasks.start(self._reconnect(replica))
        # The replica counts, because it answers, or may answer others. Its probes find out whether it is well.
        self.watch(replica)
        if found.is_retired or found.revision not in backend.routed_revisions:
            self.unroute([replica])
            self._tasks.start(self._retire(replica))

    async def announce(self, controller: SocketAddress) -> None:
        """Tell the serving replicas the address of the controller. Unreachable replicas learn it on reconnection."""
        self._controller = controller
        await asyncio.gather(*(replica.announce(controller) for replica in self if replica.is_serving))

    async def renew_keys(self, text: str) -> None:
        """Give all replicas the new keys in *text*. Unreachable replicas get them on reconnection."""
        self._keys = text
        await asyncio.gather(*(replica.renew_keys(text) for replica in self))

    # a replica is lost

    def _connection_changed(self, replica: TrackedReplica, connection: CallerConnection) -> None:
        """React to a closed connection. This is called also when a replica starts to drain, which changes nothing."""
        if not connection.closed or replica.state in (ReplicaState.DRAINING, ReplicaState.STOPPED):
            return
        if replica.state is ReplicaState.STARTING:  # the launch, which waits for the connection, reports it
            self._end(replica)
        elif replica.connection is connection:
            replica.connection = None
            self._tasks.start(self._reconnect(replica))

    async def _reconnect(self, replica: TrackedReplica) -> None:
        """Connect again to *replica* after its connection broke, or note its death."""
        connection = await self._contact.reconnect(replica)
        if not replica.is_serving:  # it was ended during the await
            if connection is not None:
                connection.close()
            return
        if connection is None:
            self._died(replica)
            return
        self._attach(replica, connection)
        _logger.info("%s of backend %r can be reached again", replica, replica.backend)
        if self._controller is not None:
            await replica.announce(self._controller)
        if self._keys:
            await replica.renew_keys(self._keys)
        await catch_up(replica)

    def _died(self, replica: TrackedReplica) -> None:
        replica.take(ReplicaEvent.DIED)
        self._forget(replica)
        self._note_end(replica)
        self._tasks.start(self._clean_up(replica))
        _logger.warning("%s of backend %r died", replica, replica.backend)
        self._on_change(replica)

    async def _clean_up(self, replica: TrackedReplica) -> None:
        """Find out how the process of *replica* has ended, and end it if it still runs."""
        how = await self._runtime.explain_end(replica.id)
        await self._end_process(replica.id)
        if how:
            _logger.warning("%s of backend %r ended with %s", replica, replica.backend, how)
            self._on_end(replica, how)

    # a replica is no longer wanted

    def unroute(self, replicas: Iterable[TrackedReplica]) -> None:
        """Leave *replicas* out of the next routing table."""
        for replica in replicas:
            if replica.state is not ReplicaState.STOPPED:
                replica.take(ReplicaEvent.RETIRED)

    async def retire(self, replicas: Iterable[TrackedReplica]) -> None:
        """Drain *replicas*, which no router uses any more, and end them.

        They end even if the caller is cancelled, because nothing would end a draining replica later.
        """
        ending = [self._tasks.start(self._retire(replica)) for replica in replicas]
        await asyncio.shield(asyncio.gather(*ending))

    async def _retire(self, replica: TrackedReplica) -> None:
        await replica.drain(replica.config.graceful_shutdown_timeout_s)
        await self.end_at_once(replica)

    async def abandon(self, replicas: Iterable[TrackedReplica]) -> None:
        """End *replicas* without a drain. They end even if the caller is cancelled: no other code would end them."""
        await asyncio.shield(asyncio.gather(*[self._end(replica) for replica in list(replicas)]))

    async def end_at_once(self, replica: TrackedReplica) -> None:
        """End *replica* without a drain."""
        await self.abandon([replica])

    def _end(self, replica: TrackedReplica) -> asyncio.Task[None]:
        """Forget *replica*, and return the task that ends its process."""
        if replica.state is not ReplicaState.STOPPED:
            replica.take(ReplicaEvent.DIED)
        self._forget(replica)
        self._note_end(replica)
        return self._tasks.start(self._end_process(replica.id))

    async def _end_process(self, id: str) -> None:
        await self._runtime.stop(id)
        self._ending.pop(id, None)  # two reasons to end it may have come together

    def _note_end(self, replica: TrackedReplica) -> None:
        """Let a next controller end the process of *replica* if this one dies first: it has no address any more."""
        self._ending[replica.id] = ReplicaSnapshot(replica.id, replica.backend, replica.revision, None)

    async def end(self) -> None:
        """End every replica. Those with a connection drain first."""
        serving = list(self)
        self.unroute(serving)
        await self.retire([replica for replica in serving if replica.connection is not None])
        await self.abandon(self)
        await asyncio.gather(*map(self._end_process, list(self._ending)))  # `close` would cancel what still ends them

    def _forget(self, replica: TrackedReplica) -> None:
        self._by_id.pop(replica.id, None)
        if replica.probing is not None and replica.probing is not asyncio.current_task():
            replica.probing.cancel()
        replica.disconnect()

    def close(self) -> None:
        """Stop to watch the replicas; they go on running."""
        self._probes.close()
        for task in self._tasks:
            task.cancel()
        for replica in self:
            self._forget(replica)
