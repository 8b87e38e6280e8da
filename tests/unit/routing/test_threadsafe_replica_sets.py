"""Replica sets that any thread may use: links follow the table, and end when nobody uses them any more."""

from __future__ import annotations

import threading

import pytest

from serve_bridge.routing.replica_set import Slot
from serve_bridge.routing.threadsafe_replica_sets import Place, ThreadsafeReplicaSets
from serve_bridge.routing_table import BackendRoute, RoutingTable
from serve_bridge.wire.address import SocketAddress


class Links:
    """Links are the replicas' names; those that have ended are listed."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.shared: ThreadsafeReplicaSets[str] = ThreadsafeReplicaSets(
            lambda address: address.name,
            limit=lambda route: route.max_concurrent_queries,
            disconnect=self.ended.append,
        )
        self.places: dict[int, list[Place[str]]] = {}

    def acquire(self, table: RoutingTable, backend: str) -> Slot[str] | None:
        """Take a slot, and hold it until it is released."""
        place = Place(self.shared, backend)
        slot = self.shared.acquire(table, place)
        self.places.setdefault(id(slot), []).append(place)
        return slot

    def release(self, slot: Slot[str], load: int) -> None:
        """Give a slot back."""
        self.shared.release(self.places[id(slot)].pop(), load)


@pytest.fixture
def links() -> Links:
    """Links of which there are none yet."""
    return Links()


def table(*replicas: str, limit: int = 2, backend: str = "b") -> RoutingTable:
    """Return a table with one backend."""
    addresses = tuple(SocketAddress(name, f"/{name}") for name in replicas)
    return RoutingTable("g", 1, {backend: BackendRoute(addresses, limit, 10)}, {})


def test_each_replica_has_its_limit_and_no_more(links: Links) -> None:
    """Then nothing is free."""
    listed = table("r1", "r2")
    taken = [links.acquire(listed, "b") for _ in range(5)]
    assert sorted(slot.peer for slot in taken if slot) == ["r1", "r1", "r2", "r2"]
    assert taken[4] is None


def test_a_place_that_is_given_back_is_free_again(links: Links) -> None:
    """For whoever comes next."""
    listed = table("r1", limit=1)
    slot = links.acquire(listed, "b")
    assert slot is not None
    links.release(slot, 3)
    assert (links.acquire(listed, "b"), slot.load) == (slot, 3)


def test_places_are_given_back_many_at_once(links: Links) -> None:
    """As replicas report how many calls they have done."""
    listed = table("r1", limit=3)
    slots = [links.acquire(listed, "b") for _ in range(3)]
    assert slots[0] is not None
    assert links.acquire(listed, "b") is None
    links.shared.settle("b", slots[0], 2, 1)
    assert slots[0].in_flight == 1
    assert links.acquire(listed, "b") is slots[0]


def test_a_backend_that_no_table_lists_has_no_place(links: Links) -> None:
    """The router says why."""
    assert links.acquire(table("r1"), "other") is None


def test_an_idle_replica_that_leaves_the_table_is_let_go_at_once(links: Links) -> None:
    """With the next use of the table."""
    links.acquire(table("r1"), "none")
    slot = links.acquire(table("r2"), "b")
    assert (slot is not None and slot.peer, links.ended) == ("r2", ["r1"])


def test_a_busy_replica_that_leaves_the_table_is_let_go_when_it_is_done(links: Links) -> None:
    """And gets nothing new until then."""
    slot = links.acquire(table("r1"), "b")
    assert slot is not None
    assert links.acquire(table(), "b") is None
    assert links.ended == []
    links.release(slot, 0)
    assert links.ended == ["r1"]


def test_a_replica_that_left_is_let_go_when_it_reports_its_last_call(links: Links) -> None:
    """And not before."""
    slot = links.acquire(table("r1"), "b")
    assert links.acquire(table("r1"), "b") is slot
    assert slot is not None
    links.acquire(table(), "b")
    links.shared.settle("b", slot, 1, 0)
    assert links.ended == []
    links.shared.settle("b", slot, 1, 0)
    assert links.ended == ["r1"]


def test_the_replicas_of_a_deleted_backend_are_let_go(links: Links) -> None:
    """Those in use when they are done."""
    slot = links.acquire(table("r1", "r2"), "b")
    assert slot is not None
    links.acquire(table("r3", backend="other"), "other")
    (idle,) = {"r1", "r2"} - {slot.peer}
    assert links.ended == [idle]
    links.release(slot, 0)
    assert sorted(links.ended) == ["r1", "r2"]


def test_a_new_limit_holds_at_once(links: Links) -> None:
    """For replicas that stay, with what they have in flight."""
    slot = links.acquire(table("r1", limit=1), "b")
    assert links.acquire(table("r1", limit=2), "b") is slot
    assert links.acquire(table("r1", limit=2), "b") is None


def test_closing_lets_go_of_everything_and_a_later_use_begins_anew(links: Links) -> None:
    """Twice is once."""
    listed = table("r1", "r2")
    links.acquire(listed, "b")
    links.shared.close()
    links.shared.close()
    assert sorted(links.ended) == ["r1", "r2"]
    assert links.acquire(listed, "b") is not None


def test_threads_never_share_a_place(links: Links) -> None:
    """However many take and give back at once."""
    listed = table("r1", "r2", limit=2)
    most: list[int] = []

    def use() -> None:
        for _ in range(300):
            slot = links.acquire(listed, "b")
            if slot is not None:
                most.append(slot.in_flight)
                links.release(slot, 0)

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) <= 2
    free = [links.acquire(listed, "b") for _ in range(5)]
    assert [slot is None for slot in free] == [False] * 4 + [True]


def test_a_place_whose_holder_is_lost_is_given_back(links: Links) -> None:
    """An exception may arrive before the holder could."""
    listed = table("r1", limit=1)
    place = Place(links.shared, "b")
    assert links.shared.acquire(listed, place) is not None
    del place
    assert links.acquire(listed, "b") is not None
