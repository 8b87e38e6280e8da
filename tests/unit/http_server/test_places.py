"""The places of a server: who gets one, and who gives way."""

from __future__ import annotations

import math

import pytest

from serve_bridge.http_server.places import LEAST_PATIENCE, LEAST_S, MOST_LEAVING, Place, Places


class Server:
    """Places with a clock, and the connections that were evicted."""

    def __init__(self, most: int, share: int | None = None, unlimited: tuple[str, ...] = ()) -> None:
        self.now = 100.0
        self.places = Places(most, share, unlimited=unlimited.__contains__)
        self.evicted: list[str] = []

    def take(self, name: str, address: str = "192.0.2.1") -> Place:
        """Let a connection in, a second after the one before."""
        self.now += 1
        place = self.places.take(address, self.now)
        place.evict = lambda: self.evicted.append(name)
        return place


def test_the_connection_that_has_waited_longest_gives_way() -> None:
    """A served connection keeps its place, and one that waits again is the last to go."""
    server = Server(3)
    first, second, _ = (server.take(name) for name in ("first", "second", "third"))
    assert first.serve()
    assert second.serve()
    second.wait(server.now)
    server.take("fourth")
    assert server.evicted == ["third"]
    server.take("fifth")
    assert server.evicted == ["third", "second"]
    assert server.places.held == 3


def test_a_full_server_opens_when_a_client_has_had_its_least_time() -> None:
    """Until then, and while all are served, new connections wait."""
    server = Server(1)
    place = server.take("only")
    assert server.places.opens_in(server.now + LEAST_S / 4) == pytest.approx(LEAST_S * 3 / 4)
    assert server.places.opens_in(server.now + LEAST_S) == 0
    assert place.serve()
    assert server.places.opens_in(server.now + 600) == math.inf
    place.give_back()
    place.give_back()
    assert (server.places.opens_in(server.now), server.places.held) == (0, 0)


def test_a_client_has_its_share_of_served_requests() -> None:
    """One more is not served until another is done; a second request of a served connection is none more."""
    server = Server(8, 2)
    first, second, third = (server.take(name) for name in ("first", "second", "third"))
    assert (first.serve(), second.serve(), first.serve(), third.serve()) == (True, True, True, False)
    assert server.take("stranger", "198.51.100.1").serve()
    first.wait(server.now)
    assert third.serve()
    second.give_back()
    assert first.serve()
    assert server.evicted == []


@pytest.mark.parametrize(
    ("addresses", "served"),
    [
        (("2001:db8::1", "2001:db8::2"), 1),
        (("2001:db8::1", "2001:db8:0:1::1"), 2),
        (("::ffff:192.0.2.1", "::ffff:192.0.2.2"), 2),
        (("fe80::1%eth0", "fe80::2%eth0"), 1),
        (("10.0.0.1", "10.0.0.1"), 2),
    ],
    ids=["one network", "two networks", "mapped", "zone", "trusted"],
)
def test_a_client_is_an_address_or_a_network(addresses: tuple[str, str], served: int) -> None:
    """A client of IPv6 has a whole /64; a trusted peer has no share."""
    server = Server(8, 1, unlimited=("10.0.0.1",))
    assert sum(server.take(address, address).serve() for address in addresses) == served


@pytest.mark.parametrize(("most", "share"), [(1, 1), (2, 2), (4, 3), (200, 150), (10_000, 7_500)])
def test_the_default_share_is_three_quarters(most: int, share: int) -> None:
    """It is rounded up, so that it means nothing for a handful of places."""
    assert Server(most).places.share == share


def test_patience_shrinks_from_half_full_on() -> None:
    """A full server keeps a tenth of each deadline."""
    server = Server(4, 4)
    impatience = []
    for number in range(4):
        server.take(str(number))
        impatience.append(server.places.impatience)
    assert impatience[:2] == [0, 0]
    assert impatience[2] == pytest.approx((1 - LEAST_PATIENCE) / 2)
    assert impatience[3] == pytest.approx(1 - LEAST_PATIENCE)


def test_only_so_many_connections_leave_at_once() -> None:
    """The first ones are cut off, so that they do not use up the file descriptors."""
    server = Server(1)
    aborted: list[int] = []
    for number in range(MOST_LEAVING + 2):
        server.places.let_leave(lambda number=number: aborted.append(number))  # type: ignore[misc]
    assert aborted == [0, 1]
