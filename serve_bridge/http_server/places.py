"""The limit on a server's connections, shared fairly among clients.

Each open connection holds one place. A server has a fixed number of places.

Rule 1: a connection holds its place from its accept, TLS handshake included, until it has closed.
Rule 2: if all places are taken, a new connection evicts the one with the longest wait. The
server never evicts a connection whose request it serves. Each connection has `LEAST_S` to send its request.
Rule 3: requests of one client hold at most a share of the places.
Rule 4: deadlines shrink as the places fill up.
Rule 5: O(1) for each connection and each request.
"""

from __future__ import annotations

import math
import socket
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

__all__ = ["Place", "Places"]

DEFAULT_SHARE: Final = 0.75
"""Default part of all places for the requests of one client."""

CALM: Final = 0.5
"""Part of all places above which deadlines shrink."""

LEAST_PATIENCE: Final = 0.1
"""Part of each deadline left when all places are taken."""

LEAST_S: Final = 0.5
"""Lower limit for the time of a client in seconds, even if other clients want its place."""

MOST_LEAVING: Final = 16
"""Upper limit for closing connections without a place. They still hold file descriptors."""

_V4_MAPPED: Final = bytes(10) + b"\xff\xff"


class Place:
    """The place of one connection.

    Attributes:
        evict: Closes the connection. `Places` calls it after another connection has taken the place.
    """

    __slots__ = ("_client", "_held", "_places", "_serving", "evict")

    def __init__(self, places: Places, client: _Client) -> None:
        self._places = places
        self._client = client
        self._held = True
        self._serving = False
        self.evict: Callable[[], object] = _nothing

    def serve(self) -> bool:
        """Begin to serve a request. Return False if the requests of its client already use up their share."""
        if self._serving:
            return True
        client = self._client
        if client.serving >= client.most:
            return False
        client.serving += 1
        self._serving = True
        self._places.waiting.pop(self, None)
        return True

    def wait(self, now: float) -> None:
        """Note that the server now waits for a request of this connection."""
        if self._held and self._serving:  # otherwise the server waits already
            self._serving = False
            self._client.serving -= 1
            places = self._places
            places.waiting[self] = now
            if places.held >= places.most:
                places.changed()

    def give_back(self) -> None:
        """Free the place. A second call does nothing."""
        if self._held:
            self._held = False
            if self._serving:
                self._serving = False
                self._client.serving -= 1
            self._places.drop(self, self._client)


class Places:
    """The places of one server.

    Attributes:
        most: Number of places.
        share: Upper limit for the places held by requests of one client.
        held: Number of taken places.
        waiting: Places of connections without a request, with the start of the server's wait. The longest is first.
        changed: Called when all places are taken and a connection begins to keep the server waiting.
    """

    def __init__(self, most: int, share: int | None, *, unlimited: Callable[[str], bool]) -> None:
        """Make *most* places.

        Args:
            most: Number of places.
            share: Upper limit for the places held by requests of one client. None: three quarters.
            unlimited: Returns whether the client at an address has no such limit.
        """
        self.most = most
        self.share: int = math.ceil(most * DEFAULT_SHARE) if share is None else share
        self.held: int = 0
        self.waiting: OrderedDict[Place, float] = OrderedDict()
        self.changed: Callable[[], object] = _nothing
        self._clients: dict[str | bytes, _Client] = {}
        self._unlimited = unlimited
        self._leaving: deque[Callable[[], object]] = deque()

    @property
    def full(self) -> bool:
        """Whether all places are taken."""
        return self.held >= self.most

    def opens_in(self, now: float) -> float:
        """Return the seconds until another connection can get a place.

        The time is infinite if a connection must close, or end its request, first.
        """
        if self.held < self.most:
            return 0.0
        if not self.waiting:
            return math.inf
        return max(0.0, next(iter(self.waiting.values())) + LEAST_S - now)

    @property
    def impatience(self) -> float:
        """Part by which each deadline shrinks; 0 while many places are free."""
        crowd = (self.held / self.most - CALM) / (1 - CALM)
        return 0.0 if crowd <= 0 else (1 - LEAST_PATIENCE) * min(1.0, crowd)

    def take(self, address: str, now: float, *, evicting: bool = True) -> Place:
        """Return a place for a connection from *address*. If all are taken, evict a connection, if *evicting*."""
        if evicting and self.full and self.waiting:
            place = next(iter(self.waiting))
            place.give_back()
            place.evict()
        self.held += 1
        key = "" if self._unlimited(address) else _key_of(address)
        client = self._clients.get(key)
        if client is None:
            client = self._clients[key] = _Client(key, self.share if key else math.inf)
        client.held += 1
        place = Place(self, client)
        self.waiting[place] = now
        return place

    def drop(self, place: Place, client: _Client) -> None:
        """Forget *place*, which *client* has given back."""
        self.waiting.pop(place, None)
        self.held -= 1
        client.held -= 1
        if not client.held:
            del self._clients[client.key]

    def let_leave(self, abort: Callable[[], object]) -> None:
        """Let an evicted connection close in its own time. If too many of them are closing, *abort* the oldest."""
        self._leaving.append(abort)
        if len(self._leaving) > MOST_LEAVING:
            self._leaving.popleft()()


class _Client:
    """One client: an IPv4 address, a /64 network of IPv6 addresses, or all clients without a limit together.

    Attributes:
        key: Key of the client in `Places`.
        most: Upper limit for its requests served at once.
        held: Number of its connections.
        serving: Number of its connections with a request being served.
    """

    __slots__ = ("held", "key", "most", "serving")

    def __init__(self, key: str | bytes, most: float) -> None:
        self.key = key
        self.most = most
        self.held = self.serving = 0


def _key_of(address: str) -> str | bytes:
    if ":" not in address:
        return address
    packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    return packed if packed.startswith(_V4_MAPPED) else packed[:8]


def _nothing() -> None:
    """Do nothing."""
