"""The replicas of one backend in one router: a request gets a slot and a connection here.

Rule 1: A request waits only if no slot is free, or other requests wait already (`waiting_line`).
Rule 2: A request skips unreachable replicas at once (`replica_peer`).
Rule 3: Every event that frees a slot also serves the queue.
Rule 4: If this process lacks descriptors or memory for a connection, the request tries again after a short wait, with
    any replica that is free then (`wire.shortage`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

from serve_bridge.errors import BackendOverloaded, InstanceClosed
from serve_bridge.process.backoff import Backoff
from serve_bridge.routing.replica_peer import ReplicaPeer
from serve_bridge.routing.replica_set import ReplicaSet, Slot
from serve_bridge.routing.waiting_line import WaitingLine, WaitingRequest
from serve_bridge.routing_table import BackendRoute
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.caller_end import CallerConnection
from serve_bridge.wire.dialling import dial
from serve_bridge.wire.keys import Key, Role
from serve_bridge.wire.shortage import Shortage

FULL_RETRY_S: Final = 0.005
"""Shortest time in seconds until a replica gets one request again after it has rejected everything as full."""
UNAVAILABLE_S: Final = 1.0
"""Shortest time in seconds until a replica gets requests again after a rejection as draining or foreign."""
SHORTAGE: Final = Backoff(shortest_s=0.05, longest_s=0.8)
"""Waits of a request between its tries, if this process lacks descriptors or memory for a connection."""
MAX_SHORTAGES: Final = 6
"""Number of such shortages after which a request fails."""


class ReplicaPool:
    """The replicas of one backend.

    Attributes:
        name: The name of the backend.
        replicas: Its replicas and their free slots.
        streaming: Names of the methods that read the body of a request while it arrives.
    """

    def __init__(
        self,
        name: str,
        route: BackendRoute,
        *,
        key: Key,
        generation: str,
        role: Role,
        expects_table_s: Callable[[], float],
    ) -> None:
        async def dial_replica(address: SocketAddress) -> CallerConnection:
            return await dial(address, key, generation, role)

        self.name = name
        self.replicas: ReplicaSet[ReplicaPeer] = ReplicaSet(route.max_concurrent_queries)
        self.streaming: frozenset[str] = frozenset()
        self._dial = dial_replica
        self._loop = asyncio.get_running_loop()
        self._line = WaitingLine(name, self.replicas, route.max_queued_queries, self.release, expects_table_s)
        self._retired: set[Slot[ReplicaPeer]] = set()
        self.apply(route)

    def apply(self, route: BackendRoute) -> None:
        """Follow a new routing table."""
        self._line.limit = route.max_queued_queries
        if route.replicas:
            self.streaming = frozenset(route.replicas[0].streaming)
        if self.replicas.limit != route.max_concurrent_queries:
            self.replicas.limit = route.max_concurrent_queries
        wanted = {address.name: address for address in route.replicas}
        for slot in self.replicas:
            if slot.name not in wanted:
                self._retire(slot)
        for replica, address in wanted.items():
            if replica not in self.replicas:
                ReplicaPeer(address, self.replicas, self._line, self._dial)
        self._line.serve()

    def close(self, error: Exception) -> None:
        """Drop every replica as soon as its requests have ended. Raise *error* in all waiting requests."""
        for slot in self.replicas:
            self._retire(slot)
        self._line.dismiss(error)

    def abandon(self) -> None:
        """Drop all connections and tasks now, because the loop ends; requests in flight fail."""
        self.close(InstanceClosed("the client was closed"))
        for slot in list(self._retired):
            self._retired.discard(slot)
            slot.peer.abandon()

    @property
    def emptied(self) -> bool:
        """Whether all requests on dropped replicas have ended."""
        return not self._retired

    @property
    def waiting(self) -> int:
        """The number of requests in the queue; expired ones may be counted."""
        return len(self._line.queue)

    @property
    def all_usable(self) -> bool:
        """Whether all replicas can be used, as far as this pool knows."""
        return self.replicas.all_usable

    def look(self, now: float) -> None:
        """Find the silent replicas; *now* is loop time."""
        for slot in self.replicas:
            slot.peer.look(now)

    def suspect(self, replica: str) -> None:
        """Find out whether *replica* still lives: a blocking caller gets no answer from it."""
        for slot in self.replicas:
            if slot.name == replica:
                slot.peer.suspect()

    async def acquire(
        self, request: WaitingRequest[ReplicaPeer], *, again: bool
    ) -> tuple[Slot[ReplicaPeer], CallerConnection]:
        """Return a slot and a usable connection; *again* after a rejection.

        Raises:
            BackendOverloaded: The queue is full, there is no replica, or this process cannot open a connection.
            DeadlineExceeded: No slot was free before the deadline.
        """
        while True:
            slot = self.replicas.acquire() if again or not self._line.queue else None
            if slot is None:
                slot = await self._line.wait(request, first=again)
            connection = slot.peer.connection
            if connection is not None and connection.usable:
                return slot, connection
            again = True
            try:
                shortage = await slot.peer.connect(request)
            except BaseException:
                self.release(slot, slot.load)
                raise
            if slot.peer.connection is not None:
                return slot, slot.peer.connection
            self.release(slot, slot.load)
            if shortage is not None:
                await self._wait_after(shortage, request)

    async def _wait_after(self, shortage: Shortage, request: WaitingRequest[ReplicaPeer]) -> None:
        """Wait until *request* may try to connect again.

        Raises:
            BackendOverloaded: The request has tried often enough.
            DeadlineExceeded: Its deadline has passed.
        """
        request.shortages += 1
        if request.shortages >= MAX_SHORTAGES:
            raise BackendOverloaded(f"backend {self.name!r}: {shortage}")
        wait_s = SHORTAGE.wait_s(request.shortages)
        await asyncio.sleep(min(wait_s, max(0.0, request.deadline - self._loop.time())))
        if request.expired:
            raise request.too_late()

    def release(self, slot: Slot[ReplicaPeer], load: int) -> None:
        """Give *slot* back; the request at the head of the queue gets it."""
        self.replicas.release(slot, load)
        self._released(slot)

    def reject(self, slot: Slot[ReplicaPeer], load: int, reason: str) -> None:
        """Give *slot* back after its replica has rejected the request for *reason*."""
        if reason == "full":
            self.replicas.refuse(slot, load)
            if slot.in_flight == 0:  # no answer to this router will reopen the replica
                self._loop.call_later(FULL_RETRY_S * (1 + random.random()), self._reopen, slot)
        else:
            if reason in ("draining", "foreign") and not slot.down:
                # A retired replica soon leaves the table. If the replica stays listed, only another try can tell why.
                self.replicas.mark(slot, down=True)
                self._loop.call_later(UNAVAILABLE_S * (1 + random.random()), slot.peer.use_again)
            self.replicas.release(slot, load)
        self._released(slot)

    def reopen_all(self) -> None:
        """Try full replicas again: one of them has finished the request of a blocking caller."""
        for slot in self.replicas:
            self.replicas.reopen(slot)
        self._line.serve()

    def _reopen(self, slot: Slot[ReplicaPeer]) -> None:
        self.replicas.reopen(slot)
        self._line.serve()

    def _released(self, slot: Slot[ReplicaPeer]) -> None:
        if not slot.member and slot.in_flight == 0:
            self._hang_up(slot)
        if self._line.queue:
            self._line.serve()

    def _retire(self, slot: Slot[ReplicaPeer]) -> None:
        slot.peer.retire()
        self._retired.add(slot)
        if slot.in_flight == 0:
            self._hang_up(slot)

    def _hang_up(self, slot: Slot[ReplicaPeer]) -> None:
        self._retired.discard(slot)
        slot.peer.hang_up()
