"""Replica sets for any thread: peers follow the routing table, and are disconnected after their last request."""

from __future__ import annotations

import threading

import pytest

from serve_bridge.routing.replica_set import Slot
from serve_bridge.routing.threadsafe_replica_sets import Place, ThreadsafeReplicaSets
from serve_bridge.routing_table import BackendRoute, RoutingTable
from serve_bridge.wire.address import SocketAddress


class Peers:
    """Replica sets whose peers are the names of the replicas; `ended` lists the disconnected ones."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.shared: ThreadsafeReplicaSets[str] = ThreadsafeReplicaSets(
            lambda address: address.name,
            limit=lambda route: route.max_concurrent_queries,
            disconnect=self.ended.append,
        )
        self.places: dict[int, list[Place[str]]] = {}

    def acquire(self, table: RoutingTable, backend: str) -> Slot[str] | None:
        """Take a slot, and hold it until its release."""
        place = Place(self.shared, backend)
        slot = self.shared.acquire(table, place)
        self.places.setdefault(id(slot), []).append(place)
        return slot

    def release(self, slot: Slot[str], load: int) -> None:
        """Give a slot back."""
        self.shared.release(self.places[id(slot)].pop(), load)


@pytest.fixture
def peers() -> Peers:
    """Replica sets without replicas."""
    return Peers()


def table(*replicas: str, limit: int = 2, backend: str = "b") -> RoutingTable:
    """Return a table with one backend."""
    addresses = tuple(SocketAddress(name, f"/{name}") for name in replicas)
    return RoutingTable("g", 1, {backend: BackendRoute(addresses, limit, 10)}, {})


def test_each_replica_has_its_limit_and_no_more(peers: Peers) -> None:
    """After that, no slot is free."""
    listed = table("r1", "r2")
    taken = [peers.acquire(listed, "b") for _ in range(5)]
    assert sorted(slot.peer for slot in taken if slot) == ["r1", "r1", "r2", "r2"]
    assert taken[4] is None


def test_a_place_that_is_given_back_is_free_again(peers: Peers) -> None:
    """The next caller gets the slot."""
    listed = table("r1", limit=1)
    slot = peers.acquire(listed, "b")
    assert slot is not None
    peers.release(slot, 3)
    assert (peers.acquire(listed, "b"), slot.load) == (slot, 3)


def test_places_are_given_back_many_at_once(peers: Peers) -> None:
    """A replica reports how many Ray calls it has finished."""
    listed = table("r1", limit=3)
    slots = [peers.acquire(listed, "b") for _ in range(3)]
    assert slots[0] is not None
    assert peers.acquire(listed, "b") is None
    peers.shared.settle("b", slots[0], 2, 1)
    assert slots[0].in_flight == 1
    assert peers.acquire(listed, "b") is slots[0]


def test_a_backend_that_no_table_lists_has_no_place(peers: Peers) -> None:
    """The caller then asks the router, which raises the error."""
    assert peers.acquire(table("r1"), "other") is None


def test_an_idle_replica_that_leaves_the_table_is_disconnected_at_once(peers: Peers) -> None:
    """It is disconnected at the next use of the table."""
    peers.acquire(table("r1"), "none")
    slot = peers.acquire(table("r2"), "b")
    assert (slot is not None and slot.peer, peers.ended) == ("r2", ["r1"])


def test_a_busy_replica_that_leaves_the_table_is_disconnected_when_it_is_done(peers: Peers) -> None:
    """It gets no requests until then."""
    slot = peers.acquire(table("r1"), "b")
    assert slot is not None
    assert peers.acquire(table(), "b") is None
    assert peers.ended == []
    peers.release(slot, 0)
    assert peers.ended == ["r1"]


def test_a_replica_that_left_is_disconnected_when_it_reports_its_last_call(peers: Peers) -> None:
    """It stays connected until then."""
    slot = peers.acquire(table("r1"), "b")
    assert peers.acquire(table("r1"), "b") is slot
    assert slot is not None
    peers.acquire(table(), "b")
    peers.shared.settle("b", slot, 1, 0)
    assert peers.ended == []
    peers.shared.settle("b", slot, 1, 0)
    assert peers.ended == ["r1"]


def test_the_replicas_of_a_deleted_backend_are_disconnected(peers: Peers) -> None:
    """A replica in use is disconnected when its request ends."""
    slot = peers.acquire(table("r1", "r2"), "b")
    assert slot is not None
    peers.acquire(table("r3", backend="other"), "other")
    (idle,) = {"r1", "r2"} - {slot.peer}
    assert peers.ended == [idle]
    peers.release(slot, 0)
    assert sorted(peers.ended) == ["r1", "r2"]


def test_a_new_limit_holds_at_once(peers: Peers) -> None:
    """The limit also holds for known replicas, with their requests in flight."""
    slot = peers.acquire(table("r1", limit=1), "b")
    assert peers.acquire(table("r1", limit=2), "b") is slot
    assert peers.acquire(table("r1", limit=2), "b") is None


def test_closing_disconnects_all_and_a_later_use_starts_afresh(peers: Peers) -> None:
    """A second close does nothing."""
    listed = table("r1", "r2")
    peers.acquire(listed, "b")
    peers.shared.close()
    peers.shared.close()
    assert sorted(peers.ended) == ["r1", "r2"]
    assert peers.acquire(listed, "b") is not None


def test_threads_never_share_a_place(peers: Peers) -> None:
    """However many take and give back at once."""
    listed = table("r1", "r2", limit=2)
    most: list[int] = []

    def use() -> None:
        for _ in range(300):
            slot = peers.acquire(listed, "b")
            if slot is not None:
                most.append(slot.in_flight)
                peers.release(slot, 0)

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) <= 2
    free = [peers.acquire(listed, "b") for _ in range(5)]
    assert [slot is None for slot in free] == [False] * 4 + [True]


def test_a_place_whose_holder_is_lost_is_given_back(peers: Peers) -> None:
    """An exception may arrive before the holder could."""
    listed = table("r1", limit=1)
    place = Place(peers.shared, "b")
    assert peers.shared.acquire(listed, place) is not None
    del place
    assert peers.acquire(listed, "b") is not None
