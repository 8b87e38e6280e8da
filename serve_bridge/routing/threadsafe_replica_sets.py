"""Replica sets for any thread: for callers that wait in their own thread, or make Ray calls.

Rule 1: The lock guards bookkeeping only. Dialling, sending and waiting happen without it.
Rule 2: A slot is given back even if an exception arrives at any line, such as the time limit of a task queue. Therefore
    one statement changes both the count in flight and the place that holds the slot. A place also gives its slot back
    when it is garbage collected.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from serve_bridge.routing.replica_set import ReplicaSet, Slot
from serve_bridge.routing_table import BackendRoute, RoutingTable
from serve_bridge.wire.address import SocketAddress

Peer = TypeVar("Peer")


class Place(Generic[Peer]):
    """Holds a slot on a replica of one backend, from `acquire` of the replica sets until `release`.

    Attributes:
        backend: The backend's name.
        slot: The slot; None: the place holds no slot.
    """

    __slots__ = ("_replicas", "backend", "slot")

    def __init__(self, replicas: ThreadsafeReplicaSets[Peer], backend: str) -> None:
        self._replicas = replicas
        self.backend: str = backend
        self.slot: Slot[Peer] | None = None

    def __del__(self) -> None:
        if self.slot is not None:
            self._replicas.lost.append(self)  # `acquire` releases it later, because this thread may hold the lock


class ThreadsafeReplicaSets(Generic[Peer]):
    """The replicas of every backend, as the newest routing table lists them.

    Attributes:
        lost: Places that were garbage collected while they held a slot.
    """

    def __init__(
        self,
        connect: Callable[[SocketAddress], Peer],
        *,
        limit: Callable[[BackendRoute], int],
        disconnect: Callable[[Peer], object] = lambda peer: None,
    ) -> None:
        """Call *connect* for each new replica, and *disconnect* once it is gone. A replica has up to *limit* slots."""
        self._connect = connect
        self._disconnect = disconnect
        self._limit = limit
        self._lock = threading.Lock()
        self._table: RoutingTable | None = None
        self._sets: dict[str, ReplicaSet[Peer]] = {}
        self.lost: deque[Place[Peer]] = deque()

    def acquire(self, table: RoutingTable, place: Place[Peer]) -> Slot[Peer] | None:
        """Take a slot on a replica of *place*'s backend, by *table*, and let *place* hold it; None: all are taken."""
        while self.lost:
            self.release(self.lost.popleft())
        with self._lock:
            if table is not self._table:
                self._apply(table)
            replicas = self._sets.get(place.backend)
            if replicas is None:
                return None
            if replicas.unsettled:
                replicas.repair()
            slot = replicas.choose()
            if slot is not None:
                place.slot, slot.in_flight, replicas.unsettled = slot, slot.in_flight + 1, True
                replicas.taken(slot)
            return slot

    def release(self, place: Place[Peer], load: int | None = None) -> None:
        """Give the slot of *place* back, if it holds one. *load* is the report of the replica, if there was one."""
        slot = place.slot
        if slot is None:
            return
        with self._lock:
            replicas = self._sets.get(place.backend)
            if replicas is None:
                place.slot, slot.in_flight = None, slot.in_flight - 1
            else:
                if replicas.unsettled:
                    replicas.repair()
                place.slot, slot.in_flight, replicas.unsettled = None, slot.in_flight - 1, True
                replicas.given_back(slot, slot.load if load is None else load)
        if not slot.member:
            self._disconnect(slot.peer)

    def slots(self, backend: str) -> list[Slot[Peer]]:
        """Return the slots of *backend*'s replicas."""
        with self._lock:
            return list(self._sets.get(backend, ()))

    def peers(self) -> list[Peer]:
        """Return the peers of all replicas."""
        with self._lock:
            return [slot.peer for replicas in self._sets.values() for slot in replicas]

    def settle(self, backend: str, slot: Slot[Peer], done: int, load: int) -> None:
        """Give back the slots of *done* requests at once; the replica has reported *load*."""
        with self._lock:
            replicas = self._sets.get(backend)
            if replicas is not None:
                replicas.settle(slot, done, load)
        if not slot.member and slot.in_flight == 0:
            self._disconnect(slot.peer)

    def close(self) -> None:
        """Drop every replica."""
        with self._lock:
            slots = [slot for replicas in self._sets.values() for slot in replicas]
            self._sets.clear()
            self._table = None
        for slot in slots:
            self._disconnect(slot.peer)

    def _apply(self, table: RoutingTable) -> None:
        self._table = table
        for name, route in table.backends.items():
            replicas = self._sets.get(name)
            if replicas is None:
                replicas = self._sets[name] = ReplicaSet(self._limit(route))
            elif replicas.limit != self._limit(route):
                replicas.limit = self._limit(route)
            wanted = {address.name: address for address in route.replicas}
            for slot in replicas:
                if slot.name not in wanted:
                    self._drop(replicas, slot)
            for replica, address in wanted.items():
                if replica not in replicas:
                    replicas.add(replica, self._connect(address))
        for name in self._sets.keys() - table.backends.keys():
            replicas = self._sets.pop(name)
            for slot in replicas:
                self._drop(replicas, slot)

    def _drop(self, replicas: ReplicaSet[Peer], slot: Slot[Peer]) -> None:
        replicas.remove(slot.name)
        if slot.in_flight == 0:
            self._disconnect(slot.peer)
