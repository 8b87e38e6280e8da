"""The places of a server: how many connections it has, whose they are, and which one gives way when all are taken.

Rule 1: A connection has its place from the moment it is accepted, TLS handshake included, until it has closed.
Rule 2: If all places are taken, a new connection gets the place of the one that has kept the server waiting longest. A
connection whose request is being served never gives way, and each one has `LEAST_S` to send its request.
Rule 3: One client holds at most a share of the places with requests that are being served.
Rule 4: Deadlines shrink as the places fill up.
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
"""Part of all places that the requests of one client may hold if the options do not say otherwise."""

CALM: Final = 0.5
"""Part of all places up to which deadlines are those of the options."""

LEAST_PATIENCE: Final = 0.1
"""What is left of a deadline when all places are taken."""

LEAST_S: Final = 0.5
"""Time in seconds that a client has at least, however many others want its place."""

MOST_LEAVING: Final = 16
"""Most connections without a place that may still be closing, so that they do not use up file descriptors."""

_V4_MAPPED: Final = bytes(10) + b"\xff\xff"


class Place:
    """The place of one connection.

    Attributes:
        evict: Closes the connection. It is called when the place has gone to another connection.
    """

    __slots__ = ("_client", "_held", "_places", "_serving", "evict")

    def __init__(self, places: Places, client: _Client) -> None:
        self._places = places
        self._client = client
        self._held = True
        self._serving = False
        self.evict: Callable[[], object] = _nothing

    def serve(self) -> bool:
        """Begin to serve a request; return False if its client has its share of them already."""
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
        """Note that the server waits for this client, and serves no request of it."""
        if self._held and self._serving:  # otherwise it waits already
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
        share: Number of places that one client may hold with requests that are being served.
        held: Number of places that are taken.
        waiting: Connections that keep the server waiting, and since when; the first one has done so longest.
        changed: Called when a connection has begun to wait although all places are taken.
    """

    def __init__(self, most: int, share: int | None, *, unlimited: Callable[[str], bool]) -> None:
        """Make *most* places.

        Args:
            most: Number of places.
            share: Number of places that one client may hold with requests. None: three quarters.
            unlimited: Returns whether the client at an address has no share.
        """
        self.most = most
        self.share = math.ceil(most * DEFAULT_SHARE) if share is None else share
        self.held = 0
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
        """Return in how many seconds another connection can have a place; infinite: not before something changes."""
        if self.held < self.most:
            return 0.0
        if not self.waiting:
            return math.inf
        return max(0.0, next(iter(self.waiting.values())) + LEAST_S - now)

    @property
    def impatience(self) -> float:
        """Part of each deadline that is taken away; 0 while there are many free places."""
        crowd = (self.held / self.most - CALM) / (1 - CALM)
        return 0.0 if crowd <= 0 else (1 - LEAST_PATIENCE) * min(1.0, crowd)

    def take(self, address: str, now: float, *, evicting: bool = True) -> Place:
        """Return a place for a connection from *address*; if all are taken, *evicting* frees one."""
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
        """Count *place*, which *client* has given back, no more."""
        self.waiting.pop(place, None)
        self.held -= 1
        client.held -= 1
        if not client.held:
            del self._clients[client.key]

    def let_leave(self, abort: Callable[[], object]) -> None:
        """Let a connection without a place take its time to close; if there are many, *abort* the first of them."""
        self._leaving.append(abort)
        if len(self._leaving) > MOST_LEAVING:
            self._leaving.popleft()()


class _Client:
    """One client: an IPv4 address, a /64 network of IPv6 addresses, or all clients without a share.

    Attributes:
        key: What it is found by.
        most: Requests of it that may be served at once.
        held: Its connections.
        serving: Those whose requests are being served.
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
