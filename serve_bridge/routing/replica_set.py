"""Which replica of a backend gets the next request.

Rule 1: no I/O, no clock; randomness comes in as an argument.
Rule 2: every operation is O(1), however many replicas there are.

Of two replicas drawn from those with a free place, the less loaded one is taken (Mitzenmacher, "The power of
two choices in randomized load balancing", 2001); its load is what it last reported, or what this router has
there if that is more. A report ages: it counts for one less each time that it loses, or a replica that was
busy once with other routers' requests would get nothing again.

A replica that says it is full gets no more than what it has, and one more after each answer: many routers
share its places without asking it again and again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Peer = TypeVar("Peer")


class Slot(Generic[Peer]):
    """One replica as one router sees it.

    Attributes:
        name: The replica's id.
        link: What leads to it; the router's own.
        in_flight: Requests this router has there.
        window: Requests this router may have there; at most the set's limit.
        load: Requests it had over all callers when it last answered.
        down: It cannot be reached or takes nothing new.
    """

    __slots__ = ("down", "in_flight", "load", "member", "name", "peer", "position", "window")

    def __init__(self, name: str, peer: Peer, window: int) -> None:
        self.name = name
        self.peer = peer
        self.in_flight = 0
        self.window = window
        self.load = 0
        self.down = False
        self.member = True
        self.position = -1

    @property
    def full(self) -> bool:
        """Whether it has refused everything; see `ReplicaSet.reopen`."""
        return self.window == 0

    def __repr__(self) -> str:
        return f"Slot({self.name!r}, in_flight={self.in_flight}, load={self.load})"


class ReplicaSet(Generic[Peer]):
    """The replicas of one backend, and which of them have a free slot.

    Attributes:
        unsettled: A change has begun. If it still has when the next begins, an exception has arrived in between; see
            `repair`.
    """

    def __init__(self, limit: int, draw: Callable[[], float] = random.random) -> None:
        """Let each replica have at most *limit* requests of this router; *draw* gives numbers in [0, 1)."""
        self._limit = limit
        self._draw = draw
        self._slots: dict[str, Slot[Peer]] = {}
        self._free: list[Slot[Peer]] = []
        self.unsettled = False
        self._up = 0

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Slot[Peer]]:
        return iter(list(self._slots.values()))

    def __contains__(self, name: str) -> bool:
        return name in self._slots

    @property
    def limit(self) -> int:
        """Requests of this router that one replica may have at once."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = limit
        for slot in self._slots.values():
            slot.window = limit
            self._sort_in(slot)

    @property
    def usable(self) -> bool:
        """Whether any replica could ever answer, were it not full."""
        return self._up > 0

    @property
    def all_usable(self) -> bool:
        """Whether every replica is usable, full or not."""
        return self._up == len(self._slots)

    @property
    def can_spare_one(self) -> bool:
        """Whether at least one replica, and at least half of all, stay usable without one of the usable replicas."""
        left = self._up - 1
        return left >= 1 and left * 2 >= len(self._slots)

    def add(self, name: str, peer: Peer) -> Slot[Peer]:
        """Let *name*, which is not in the set, take part."""
        slot = self._slots[name] = Slot(name, peer, self._limit)
        self._up += 1
        self._sort_in(slot)
        return slot

    def remove(self, name: str) -> Slot[Peer]:
        """Let *name* get nothing more; what it has in flight may still be released."""
        slot = self._slots.pop(name)
        slot.member = False
        self._up -= not slot.down
        self._sort_in(slot)
        return slot

    def acquire(self) -> Slot[Peer] | None:
        """Take a place on the less loaded of two replicas, or None if all are full or down."""
        slot = self.choose()
        if slot is not None:
            slot.in_flight += 1
            self.taken(slot)
        return slot

    def choose(self) -> Slot[Peer] | None:
        """Return the less loaded of two replicas, or None if all are full or down; see `taken`."""
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
        """Note that one was added to what *slot*, which `choose` has returned, has in flight."""
        if slot.in_flight >= slot.window:
            self._sort_in(slot)
        self.unsettled = False

    def release(self, slot: Slot[Peer], load: int) -> None:
        """Give a place back; the replica has reported *load*."""
        slot.in_flight -= 1
        self.given_back(slot, load)

    def given_back(self, slot: Slot[Peer], load: int) -> None:
        """Note that one was taken from what *slot* has in flight; the replica has reported *load*."""
        slot.load = load
        if slot.window < self._limit:
            slot.window += 1
        if slot.position < 0:
            self._sort_in(slot)
        self.unsettled = False

    def settle(self, slot: Slot[Peer], done: int, load: int) -> None:
        """Give back the places of *done* requests at once; the replica has reported *load*."""
        slot.in_flight -= done
        slot.load = load
        self._sort_in(slot)

    def refuse(self, slot: Slot[Peer], load: int) -> None:
        """Give a place back: the replica said that it is full. If nothing is left there, see `reopen`."""
        slot.in_flight -= 1
        slot.load = load
        slot.window = slot.in_flight
        self._sort_in(slot)

    def reopen(self, slot: Slot[Peer]) -> None:
        """Try a replica again that refused everything: with one request."""
        slot.window = max(slot.window, 1)
        self._sort_in(slot)

    def mark(self, slot: Slot[Peer], *, down: bool) -> None:
        """Note whether the replica can be used at all."""
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
        """Sort every slot in from the beginning."""
        self._free.clear()
        for slot in self._slots.values():
            slot.position = -1
        for slot in self._slots.values():
            self._sort_in(slot)
        self.unsettled = False
