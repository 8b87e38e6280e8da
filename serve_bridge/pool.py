"""One backend's replicas as one router reaches them: slots, connections, and the line of those who wait.

Rule 1: who waits is served in the order of arrival; a request that was rejected goes back to the head.
Rule 2: a replica that cannot be reached is skipped at once and tried again with back-off, for as long as it is listed.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from typing import Final

from serve_bridge.errors import AuthenticationError, BackendOverloaded, DeadlineExceeded
from serve_bridge.messages import BackendRoute, ReplicaAddress
from serve_bridge.replica_set import ReplicaSet, Slot
from serve_bridge.wire.auth import Key, Role
from serve_bridge.wire.connection import CallerConnection, Lost
from serve_bridge.wire.sockets import dial

NO_REPLICA_WAIT_S: Final = 1.0
"""How long a request waits for a new table when every replica of the old one has gone."""
REDIAL_S: Final = (0.05, 2.0)
FULL_AGAIN_S: Final = 0.005

_logger = logging.getLogger("serve_bridge.router")


class Link:
    """What leads to one replica: its address, and a connection while there is one."""

    __slots__ = ("address", "connection", "dialling", "redial")

    def __init__(self, address: ReplicaAddress) -> None:
        self.address = address
        self.connection: CallerConnection | None = None
        self.dialling: asyncio.Task[CallerConnection] | None = None
        self.redial: asyncio.Task[None] | None = None


class Waiting:
    """A place in the line."""

    __slots__ = ("deadline", "granted")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.granted: asyncio.Future[Slot[Link]] | None = None

    def expire(self) -> None:
        """Time is up."""
        if self.granted is not None and not self.granted.done():
            self.granted.set_exception(DeadlineExceeded("no replica had a free slot in time", "no"))


class ReplicaPool:
    """The replicas of one backend.

    Attributes:
        name: The backend.
        replicas: Its replicas and their free slots.
        connects_failed: How often one could not be reached.
    """

    def __init__(self, name: str, route: BackendRoute, *, key: Key, generation: str, role: Role) -> None:
        self.name = name
        self.replicas: ReplicaSet[Link] = ReplicaSet(route.max_concurrent_queries)
        self.connects_failed = 0
        self._key = key
        self._generation = generation
        self._role = role
        self._loop = asyncio.get_running_loop()
        self._line: deque[asyncio.Future[Slot[Link]]] = deque()
        self.apply(route)

    def apply(self, route: BackendRoute) -> None:
        """Follow a new table."""
        self._max_queued = route.max_queued_queries
        if self.replicas.limit != route.max_concurrent_queries:
            self.replicas.limit = route.max_concurrent_queries
        wanted = {address.replica: address for address in route.replicas}
        for slot in self.replicas:
            if slot.name not in wanted:
                self._retire(slot.name)
        for replica, address in wanted.items():
            if replica not in self.replicas:
                self.replicas.add(replica, Link(address))
        self._serve_line()

    def close(self, error: Exception) -> None:
        """Let go of every replica; *error* reaches all who wait."""
        for slot in self.replicas:
            self._retire(slot.name)
        while self._line:
            granted = self._line.popleft()
            if not granted.done():
                granted.set_exception(error)

    def abandon(self) -> None:
        """Drop connections and tasks, in flight or not: the loop ends."""
        self.close(BackendOverloaded("the client was closed"))

    # slots

    async def acquire(self, place: Waiting, *, again: bool) -> tuple[Slot[Link], CallerConnection]:
        """Return a slot and a connection that takes requests; *again* after a rejection.

        Raises:
            BackendOverloaded: The line is full, or there is no replica.
            DeadlineExceeded: No slot came free in time.
        """
        while True:
            slot = self.replicas.acquire() if again or not self._line else None
            if slot is None:
                slot = await self._wait(place, again)
            connection = slot.link.connection
            if connection is not None and not connection.closed:
                return slot, connection
            try:
                return slot, await self._connection(slot)
            except Lost:
                again = True
                self.release(slot, slot.load)
            except BaseException:
                self.release(slot, slot.load)
                raise

    async def _wait(self, place: Waiting, again: bool) -> Slot[Link]:
        if not len(self.replicas):
            raise BackendOverloaded(f"backend {self.name!r} has no ready replica")
        if len(self._line) >= self._max_queued and not again:
            raise BackendOverloaded(
                f"backend {self.name!r}: {self._max_queued} requests of this process wait already (max_queued_queries)"
            )
        if self._loop.time() >= place.deadline:
            raise DeadlineExceeded("no replica had a free slot in time", "no")
        granted = place.granted = self._loop.create_future()
        (self._line.appendleft if again else self._line.append)(granted)
        hopeless = None if self.replicas.usable() else self._loop.call_later(NO_REPLICA_WAIT_S, self._give_up, granted)
        try:
            return await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                self.release(granted.result(), granted.result().load)  # both happened in one turn of the loop
            raise
        finally:
            place.granted = None
            if hopeless is not None:
                hopeless.cancel()

    def _give_up(self, granted: asyncio.Future[Slot[Link]]) -> None:
        if not granted.done():
            granted.set_exception(BackendOverloaded(f"backend {self.name!r} has no ready replica"))

    def release(self, slot: Slot[Link], load: int) -> None:
        """Give *slot* back; the next in line gets it."""
        self.replicas.release(slot, load)
        if not slot.member and slot.in_flight == 0:
            self._hang_up(slot)
        self._serve_line()

    def refuse(self, slot: Slot[Link], load: int, reason: str) -> None:
        """Give *slot* back, which was rejected for *reason*."""
        self.replicas.release(slot, load)
        if reason == "full":
            self.replicas.close(slot)
            if slot.in_flight == 0:  # no answer of ours will reopen it
                self._loop.call_later(FULL_AGAIN_S * (1 + random.random()), self._reopen, slot)
        elif reason in ("draining", "foreign"):
            self.replicas.mark(slot, down=True)
        self._serve_line()

    def _reopen(self, slot: Slot[Link]) -> None:
        self.replicas.reopen(slot)
        self._serve_line()

    def _serve_line(self) -> None:
        line = self._line
        while line:
            if line[0].done():  # expired or cancelled
                line.popleft()
                continue
            slot = self.replicas.acquire()
            if slot is None:
                return
            line.popleft().set_result(slot)

    # connections

    async def _connection(self, slot: Slot[Link]) -> CallerConnection:
        """Return a connection to *slot*; requests that come at once share the dialling."""
        link = slot.link
        if link.dialling is None:
            link.dialling = self._loop.create_task(self._dial(slot))
        # Shielded: one request that gives up must not stop the dialling for the others.
        return await asyncio.shield(link.dialling)

    async def _dial(self, slot: Slot[Link]) -> CallerConnection:
        link = slot.link
        try:
            connection = await dial(link.address, self._key, self._generation, self._role)
        except (Lost, AuthenticationError) as error:
            self.connects_failed += 1
            _logger.info("replica %s cannot be reached: %s", slot.name, error)
            self._lose(slot)
            raise Lost("no", str(error)) from error
        finally:
            link.dialling = None
        link.connection = connection
        connection.on_change = lambda: self._lose(slot)
        if not slot.member and slot.in_flight == 0:
            self._hang_up(slot)
        return connection

    def _lose(self, slot: Slot[Link]) -> None:
        """The connection closed, or its replica takes nothing new."""
        link = slot.link
        link.connection = None
        self.replicas.mark(slot, down=True)
        if slot.member and link.redial is None:
            link.redial = self._loop.create_task(self._redial(slot))

    async def _redial(self, slot: Slot[Link]) -> None:
        delay, longest = REDIAL_S
        while slot.member:
            await asyncio.sleep(delay * (0.5 + random.random()))
            delay = min(delay * 2, longest)
            try:
                await self._connection(slot)
            except Lost:
                continue
            break
        slot.link.redial = None
        self.replicas.mark(slot, down=False)
        self._serve_line()

    def _retire(self, replica: str) -> None:
        slot = self.replicas.remove(replica)
        if slot.link.redial is not None:
            slot.link.redial.cancel()
        if slot.in_flight == 0:
            self._hang_up(slot)

    def _hang_up(self, slot: Slot[Link]) -> None:
        connection, slot.link.connection = slot.link.connection, None
        if connection is not None:
            connection.on_change = None
            connection.close()
