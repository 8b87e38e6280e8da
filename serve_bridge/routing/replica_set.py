"""The choice of a replica for the next request to a backend.

Rule 1: This module does no I/O and reads no clock. Its source of randomness is an argument.
Rule 2: Every operation for a request is O(1) in the number of replicas.

The set draws two replicas with a free slot and takes the less loaded one (Mitzenmacher, "The power of two choices in
randomized load balancing", 2001). The load of a replica is its last report, or the number of requests of this router if
it is higher. Each time a replica is drawn and not taken, its report counts for one less. Otherwise a replica that was
busy once with the requests of other routers would never get requests again.

If a replica is full, the router sends it only as many requests as it has in flight there, and one more after each
answer. Several routers can therefore share a replica with few rejections.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Peer = TypeVar("Peer")


class Slot(Generic[Peer]):
    """The slots of one replica in one router.

    Attributes:
        name: The id of the replica.
        peer: The owner's object for the replica, such as its connection.
        in_flight: Number of requests of this router on the replica.
        window: Upper limit for `in_flight`; at most the limit of the set. 0: the replica has rejected all requests.
        load: Number of requests of all callers, by the last report of the replica.
        down: Whether the replica cannot be reached, or accepts no requests.
        member: Whether the replica is still in the set.
        position: Position in the set's list of free slots; -1: not in it.
    """

    __slots__ = ("down", "in_flight", "load", "member", "name", "peer", "position", "window")

    def __init__(self, name: str, peer: Peer, window: int) -> None:
        self.name: str = name
        self.peer: Peer = peer
        self.in_flight: int = 0
        self.window: int = window
        self.load: int = 0
        self.down: bool = False
        self.member: bool = True
        self.position: int = -1

    def __repr__(self) -> str:
        return f"Slot({self.name!r}, in_flight={self.in_flight}, load={self.load})"


class ReplicaSet(Generic[Peer]):
    """The replicas of one backend, and their free slots.

    Attributes:
        unsettled: Whether a change has begun and not ended. If it is set when the next change begins, an exception has
            interrupted the last one; see `repair`.
    """

    def __init__(self, limit: int, draw: Callable[[], float] = random.random) -> None:
        """Give each replica at most *limit* requests of this router; *draw* returns numbers in [0, 1)."""
        self._limit = limit
        self._draw = draw
        self._slots: dict[str, Slot[Peer]] = {}
        self._free: list[Slot[Peer]] = []
        self.unsettled: bool = False
        self._up = 0

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Slot[Peer]]:
        return iter(list(self._slots.values()))

    def __contains__(self, name: str) -> bool:
        return name in self._slots

    @property
    def limit(self) -> int:
        """Upper limit for the requests of this router on one replica."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = limit
        for slot in self._slots.values():
            slot.window = limit
            self._sort_in(slot)

    @property
    def usable(self) -> bool:
        """Whether at least one replica is not down; it may be full."""
        return self._up > 0

    @property
    def all_usable(self) -> bool:
        """Whether no replica is down; replicas may be full."""
        return self._up == len(self._slots)

    @property
    def can_spare_one(self) -> bool:
        """Whether at least one replica, and at least half of all, stay usable without one of the usable replicas."""
        left = self._up - 1
        return left >= 1 and left * 2 >= len(self._slots)

    def add(self, name: str, peer: Peer) -> Slot[Peer]:
        """Add the replica *name*, which is not in the set."""
        slot = self._slots[name] = Slot(name, peer, self._limit)
        self._up += 1
        self._sort_in(slot)
        return slot

    def remove(self, name: str) -> Slot[Peer]:
        """Remove the replica *name*. Its requests in flight may still be released."""
        slot = self._slots.pop(name)
        slot.member = False
        self._up -= not slot.down
        self._sort_in(slot)
        return slot

    def acquire(self) -> Slot[Peer] | None:
        """Take a slot on the less loaded of two replicas; None if all are full or down."""
        slot = self.choose()
        if slot is not None:
            slot.in_flight += 1
            self.taken(slot)
        return slot

    def choose(self) -> Slot[Peer] | None:
        """Return the less loaded of two replicas; None if all are full or down. `taken` must follow."""
        free = self._free
        count = len(free)
        if count == 0:
            return None
        if count == 1:
            slot = free[0]
        else:
            first = int(self._draw() * count)
            second = int(self._draw() * (count - 1))
            slot, other = free[first], free[second + (second >= first)]
            if max(other.load, other.in_flight) < max(slot.load, slot.in_flight):
                slot, other = other, slot
            if other.load:
                other.load -= 1
        return slot

    def taken(self, slot: Slot[Peer]) -> None:
        """Note a new request in flight on *slot*, which `choose` has returned."""
        if slot.in_flight >= slot.window:
            self._sort_in(slot)
        self.unsettled = False

    def release(self, slot: Slot[Peer], load: int) -> None:
        """Give a slot back; the replica has reported *load*."""
        slot.in_flight -= 1
        self.given_back(slot, load)

    def given_back(self, slot: Slot[Peer], load: int) -> None:
        """Note one request less in flight on *slot*; the replica has reported *load*."""
        slot.load = load
        if slot.window < self._limit:
            slot.window += 1
        if slot.position < 0:
            self._sort_in(slot)
        self.unsettled = False

    def settle(self, slot: Slot[Peer], done: int, load: int) -> None:
        """Give back the slots of *done* requests at once; the replica has reported *load*."""
        slot.in_flight -= done
        slot.load = load
        self._sort_in(slot)

    def refuse(self, slot: Slot[Peer], load: int) -> None:
        """Give a slot back after a rejection as full. If no request is left there, see `reopen`."""
        slot.in_flight -= 1
        slot.load = load
        slot.window = slot.in_flight
        self._sort_in(slot)

    def reopen(self, slot: Slot[Peer]) -> None:
        """Let a replica get one request again after it has rejected all requests."""
        slot.window = max(slot.window, 1)
        self._sort_in(slot)

    def mark(self, slot: Slot[Peer], *, down: bool) -> None:
        """Note whether the replica is down."""
        if slot.member:
            self._up += slot.down - down
        slot.down = down
        self._sort_in(slot)

    def _sort_in(self, slot: Slot[Peer]) -> None:
        free = slot.member and not slot.down and slot.in_flight < slot.window
        if free is (slot.position >= 0):
            return
        if free:
            slot.position = len(self._free)
            self._free.append(slot)
        else:
            last = self._free.pop()
            if last is not slot:
                self._free[slot.position] = last
                last.position = slot.position
            slot.position = -1

    def repair(self) -> None:
        """Rebuild the list of free slots after an interrupted change."""
        self._free.clear()
        for slot in self._slots.values():
            slot.position = -1
        for slot in self._slots.values():
            self._sort_in(slot)
        self.unsettled = False
