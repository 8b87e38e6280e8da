"""The choice of a replica, compared with a simple model."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from serve_bridge.routing.replica_set import ReplicaSet, Slot


def made(*names: str, limit: int = 1) -> ReplicaSet[str]:
    """Return a set of replicas with a seeded draw."""
    replicas: ReplicaSet[str] = ReplicaSet(limit, random.Random(1).random)
    for name in names:
        replicas.add(name, name)
    return replicas


def taken(replicas: ReplicaSet[str]) -> Slot[str]:
    """Take a slot; there must be one."""
    slot = replicas.acquire()
    assert slot is not None
    return slot


def test_full_replicas_are_skipped() -> None:
    """A replica at its limit gets no request until it gives a slot back."""
    replicas = made("r1", "r2")
    slots = [taken(replicas), taken(replicas)]
    assert {slot.name for slot in slots} == {"r1", "r2"}
    assert replicas.acquire() is None
    replicas.release(slots[0], 0)
    assert replicas.acquire() is slots[0]


def test_of_two_the_less_loaded_is_taken() -> None:
    """The set compares the loads of the last reports."""
    replicas = made("r1", "r2", limit=100)
    for slot in replicas:
        slot.load = 50 if slot.name == "r1" else 0
    assert {taken(replicas).name for _ in range(20)} == {"r2"}


def test_what_is_in_flight_counts_where_a_report_is_older() -> None:
    """A burst spreads over the replicas before the first answer."""
    replicas = made("r1", "r2", limit=100)
    assert Counter(taken(replicas).name for _ in range(20)) == {"r1": 10, "r2": 10}


def test_a_report_of_old_is_not_believed_for_ever() -> None:
    """A replica gets requests again after it was busy with the requests of other routers."""
    replicas = made("r1", "r2", limit=100)
    next(iter(replicas)).load = 10
    names = set()
    for _ in range(20):
        slot = taken(replicas)
        names.add(slot.name)
        replicas.release(slot, slot.load)
    assert names == {"r1", "r2"}


def test_a_replica_that_refused_all_waits_to_be_reopened_and_then_gets_one() -> None:
    """The set does not send all waiting requests to it."""
    replicas = made("r1", limit=10)
    slot = taken(replicas)
    replicas.refuse(slot, 99)
    assert (slot.window, replicas.acquire()) == (0, None)
    replicas.reopen(slot)
    assert [replicas.acquire(), replicas.acquire()] == [slot, None]


def test_each_answer_after_a_refusal_lets_one_more_through() -> None:
    """A replica with free slots fills up soon."""
    replicas = made("r1", limit=3)
    slot = taken(replicas)
    replicas.refuse(slot, 9)
    replicas.reopen(slot)
    taken(replicas)
    replicas.release(slot, 0)
    assert [replicas.acquire(), replicas.acquire(), replicas.acquire()] == [slot, slot, None]


def test_a_refusal_leaves_a_replica_what_it_has_accepted() -> None:
    """Its next answer opens a slot again."""
    replicas = made("r1", limit=3)
    slot, _ = taken(replicas), taken(replicas)
    replicas.refuse(slot, 9)
    assert replicas.acquire() is None
    replicas.release(slot, 0)
    assert replicas.acquire() is slot


def test_a_removed_replica_gets_nothing_and_may_still_be_released() -> None:
    """Its requests in flight end as usual."""
    replicas = made("r1", limit=2)
    slot = taken(replicas)
    replicas.remove("r1")
    replicas.release(slot, 0)
    assert (replicas.acquire(), slot.in_flight, len(replicas), replicas.usable) == (None, 0, 0, False)


def test_a_replica_that_is_down_is_skipped_until_it_is_up() -> None:
    """If all replicas are down, the set is not usable."""
    replicas = made("r1")
    [slot] = replicas
    replicas.mark(slot, down=True)
    assert (replicas.acquire(), replicas.usable) == (None, False)
    replicas.mark(slot, down=False)
    assert (replicas.acquire(), replicas.usable) == (slot, True)


class Model(RuleBasedStateMachine):
    """A set of replicas, and the number of requests of each replica in a dictionary."""

    taken = Bundle("taken")

    def __init__(self) -> None:
        super().__init__()
        self.replicas = made("r0", "r1", limit=2)
        self.limit = 2
        self.slots = {slot.name: slot for slot in self.replicas}
        self.in_flight = dict.fromkeys(self.slots, 0)
        self.window = dict.fromkeys(self.slots, 2)
        self.down: set[str] = set()
        self.number = 2

    def free(self) -> set[str]:
        """Return the replicas with a free slot."""
        return {n for n in self.slots if n not in self.down and self.in_flight[n] < self.window[n]}

    @rule(target=taken)
    def acquire(self) -> object:
        """Take a slot, if one is free."""
        free = self.free()
        slot = self.replicas.acquire()
        if slot is None:
            assert not free
            return multiple()
        assert slot.name in free
        self.in_flight[slot.name] += 1
        return slot

    @rule(slot=consumes(taken), load=st.integers(0, 9))
    def release(self, slot: Slot[str], load: int) -> None:
        """Give a slot back."""
        self.replicas.release(slot, load)
        if slot.name in self.slots:
            self.in_flight[slot.name] -= 1
            self.window[slot.name] = min(self.limit, self.window[slot.name] + 1)

    @rule(slot=consumes(taken))
    def refuse(self, slot: Slot[str]) -> None:
        """Reject a request as full."""
        self.replicas.refuse(slot, 9)
        if slot.name in self.slots:
            self.in_flight[slot.name] -= 1
            self.window[slot.name] = self.in_flight[slot.name]

    @rule(limit=st.integers(1, 4))
    def change_limit(self, limit: int) -> None:
        """Follow another routing table."""
        self.replicas.limit = self.limit = limit
        self.window = dict.fromkeys(self.slots, limit)

    @rule(data=st.data(), down=st.booleans())
    def mark(self, data: st.DataObject, down: bool) -> None:
        """Mark a replica as down or up."""
        if self.slots:
            name = data.draw(st.sampled_from(sorted(self.slots)))
            self.replicas.mark(self.slots[name], down=down)
            (self.down.add if down else self.down.discard)(name)

    @rule(data=st.data())
    def reopen(self, data: st.DataObject) -> None:
        """Reopen a replica."""
        if self.slots:
            name = data.draw(st.sampled_from(sorted(self.slots)))
            self.replicas.reopen(self.slots[name])
            self.window[name] = max(self.window[name], 1)

    @rule()
    def add(self) -> None:
        """Add a replica."""
        name = f"r{self.number}"
        self.number += 1
        self.slots[name] = self.replicas.add(name, name)
        self.in_flight[name], self.window[name] = 0, self.limit

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        """Remove a replica."""
        if self.slots:
            name = data.draw(st.sampled_from(sorted(self.slots)))
            self.replicas.remove(name)
            del self.slots[name]
            self.down.discard(name)

    @invariant()
    def agrees(self) -> None:
        """The set and the model have the same replicas and requests."""
        assert {slot.name: slot.in_flight for slot in self.replicas} == {
            name: self.in_flight[name] for name in self.slots
        }
        assert self.replicas.usable == bool(self.slots.keys() - self.down)
        assert self.replicas.all_usable == (not self.down)
        usable = len(self.slots.keys() - self.down)
        assert self.replicas.can_spare_one == (usable > 1 and 2 * (usable - 1) >= len(self.slots))


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=settings().max_examples * 6 // 10, stateful_step_count=40)
