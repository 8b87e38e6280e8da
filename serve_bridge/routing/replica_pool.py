"""One backend's replicas as one router reaches them: slots, connections, and the line of those who wait.

Rule 1: who waits is served in the order of arrival; a request that was rejected goes back to the head.
Rule 2: a replica that cannot be reached is skipped at once, and tried again with back-off for as long as it
    is listed.
Rule 3: whatever makes a slot free also serves the line.
Rule 4: a replica that owes answers and does not answer pings gets nothing new until it is heard of again; but
    half of the replicas are used whatever they do, since all at once are rather busy than dead.
Rule 5: a connection that this process lacks descriptors or memory for is no news about the replica (`wire.shortage`).
    The request waits a little and tries again, with whatever replica is free then.
Rule 6: a replica that is busy or hangs keeps its requests until their deadlines. One whose host has gone loses them at
    once: there the host's kernel acknowledges no ping either (`wire.host`).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict
from typing import Final

from serve_bridge.errors import BackendOverloaded, DeadlineExceeded, InstanceClosed
from serve_bridge.process.backoff import Backoff
from serve_bridge.routing.replica_set import ReplicaSet, Slot
from serve_bridge.routing_table import BackendRoute
from serve_bridge.wire.address import ReplicaAddress
from serve_bridge.wire.caller_end import CallerConnection
from serve_bridge.wire.dialling import dial
from serve_bridge.wire.keys import Key, Role
from serve_bridge.wire.peer import GONE, GONE_S
from serve_bridge.wire.shortage import Shortage, is_shortage

NO_REPLICA_WAIT_S: Final = 1.0
"""How long a request waits for a new table when every replica of the old one has gone."""
REDIAL: Final = Backoff(shortest_s=0.05, longest_s=2.0)
"""Waits between the tries to connect to a replica that is listed."""
LOOK_S: Final = 0.5
"""How often `ReplicaPool.look` is to be called."""
QUIET_S: Final = 0.5
"""Silence after which a replica that owes answers is pinged."""
SILENT_S: Final = 1.5
"""How long it may take to answer that."""
FULL_AGAIN_S: Final = 0.005
SHORTAGE: Final = Backoff(shortest_s=0.05, longest_s=0.8)
"""Waits of a request between its tries if this process lacks descriptors or memory for a connection."""
SHORT_TRIES: Final = 6
ASIDE_S: Final = 1.0
"""Time after which a replica that said it takes no requests gets one again, unless it has left the table by then."""

_logger = logging.getLogger("serve_bridge.router")


class Link:
    """What leads to one replica: its address, and a connection while there is one."""

    __slots__ = ("address", "connection", "dialling", "doubted", "pinged", "redial", "silent")

    def __init__(self, address: ReplicaAddress) -> None:
        self.address = address
        self.doubted = False
        self.pinged: float | None = None
        self.silent = False
        self.connection: CallerConnection | None = None
        self.dialling: asyncio.Task[Shortage | None] | None = None
        self.redial: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """Dial no more."""
        for task in (self.dialling, self.redial):
            if task is not None:
                task.cancel()


class Waiting:
    """A request that needs a slot, and its place in the line while it has none.

    Attributes:
        deadline: Loop time at which it is no longer wanted.
        expired: Whether that has passed.
        admitted: Whether it has had a place in the line; if so it gets one again, however long the line is by then.
        shortages: How often this process lacked what a connection for it takes.
    """

    __slots__ = ("admitted", "deadline", "expired", "granted", "shortages")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.expired = self.admitted = False
        self.shortages = 0
        self.granted: asyncio.Future[Slot[Link]] | None = None

    def expire(self) -> None:
        """Time is up."""
        self.expired = True
        if self.granted is not None and not self.granted.done():
            self.granted.set_exception(self.too_late())

    def too_late(self) -> DeadlineExceeded:
        """Return the error for a request that has not been sent."""
        return DeadlineExceeded("no replica had a free slot in time", "no")


class ReplicaPool:
    """The replicas of one backend.

    Attributes:
        name: The backend.
        replicas: Its replicas and their free slots.
        connects_failed: How often one could not be reached.
        streaming: Names of the methods that read the body of a request while it comes.
    """

    def __init__(self, name: str, route: BackendRoute, *, key: Key, generation: str, role: Role) -> None:
        self.name = name
        self.replicas: ReplicaSet[Link] = ReplicaSet(route.max_concurrent_queries)
        self.connects_failed = 0
        self.streaming: frozenset[str] = frozenset()
        self._key = key
        self._generation = generation
        self._role = role
        self._loop = asyncio.get_running_loop()
        self._line: OrderedDict[asyncio.Future[Slot[Link]], None] = OrderedDict()
        self._hopeless: asyncio.TimerHandle | None = None
        self._retired: set[Slot[Link]] = set()
        self.apply(route)

    def apply(self, route: BackendRoute) -> None:
        """Follow a new table."""
        self._max_queued = route.max_queued_queries
        if route.replicas:
            self.streaming = frozenset(route.replicas[0].streaming)
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
        """Let go of every replica once what is in flight has ended; *error* reaches all who wait."""
        for slot in self.replicas:
            self._retire(slot.name)
        self._dismiss(error)

    def abandon(self) -> None:
        """Drop connections and tasks, in flight or not: the loop ends."""
        self.close(InstanceClosed("the client was closed"))
        for slot in list(self._retired):
            slot.link.stop()
            self._hang_up(slot)

    @property
    def emptied(self) -> bool:
        """Whether every replica that was let go of has ended what was in flight."""
        return not self._retired

    # slots

    @property
    def waiting(self) -> int:
        """How many requests wait for a slot; those whose time is up may be counted."""
        return len(self._line)

    def reopen_all(self) -> None:
        """Try the replicas again that were full: one of them has done something."""
        for slot in self.replicas:
            self.replicas.reopen(slot)
        self._serve_line()

    @property
    def whole(self) -> bool:
        """Whether every replica can be used, as far as is known here."""
        return self.replicas.whole

    def look(self, now: float) -> None:
        """Find the replicas that have fallen silent; *now* is loop time."""
        for slot in self.replicas:
            if slot.link.connection is not None:
                self._look_at(slot, slot.link.connection, now)

    def doubt(self, replica: str) -> None:
        """Somebody else waits for an answer of *replica* in vain: find out whether it still lives."""
        for slot in self.replicas:
            if slot.name == replica:
                slot.link.doubted = True
                if slot.link.connection is None and not slot.down:
                    self._dialling(slot)

    def _look_at(self, slot: Slot[Link], connection: CallerConnection, now: float) -> None:
        link = slot.link
        awaited = bool(connection.session.streams) or link.doubted
        if link.pinged is not None and connection.last_heard <= link.pinged:
            silent_s = now - link.pinged
            if silent_s >= GONE_S and connection.is_host_silent(silent_s):
                connection.close(TimeoutError(f"replica {slot.name}: {GONE}"))
                return
        if link.silent:
            if link.pinged is not None and connection.last_heard > link.pinged:
                _logger.info("replica %s is heard again", slot.name)
                self._trust(link)
                self.replicas.mark(slot, down=False)
                self._serve_line()
        elif not awaited:
            link.pinged = None
        elif link.pinged is None or connection.last_heard > link.pinged:
            link.doubted = link.doubted and link.pinged is None
            link.pinged = None
            if link.doubted or now - connection.last_heard >= QUIET_S:
                link.pinged = now
                connection.ping()
        elif now - link.pinged >= SILENT_S and self._can_spare_one():
            _logger.warning("replica %s does not answer", slot.name)
            link.silent = True
            self.replicas.mark(slot, down=True)
            if self._line:
                self._watch_line()

    def _trust(self, link: Link) -> None:
        link.doubted = link.silent = False
        link.pinged = None

    def _can_spare_one(self) -> bool:
        left = sum(not slot.down for slot in self.replicas) - 1
        return left >= 1 and left * 2 >= len(self.replicas)

    async def acquire(self, place: Waiting, *, again: bool) -> tuple[Slot[Link], CallerConnection]:
        """Return a slot and a connection that takes requests; *again* after a rejection.

        Raises:
            BackendOverloaded: The line is full, there is no replica, or this process cannot open a connection.
            DeadlineExceeded: No slot came free in time.
        """
        while True:
            slot = self.replicas.acquire() if again or not self._line else None
            if slot is None:
                slot = await self._wait(place, again)
            connection = slot.link.connection
            if connection is not None and connection.usable:
                return slot, connection
            again = True
            try:
                shortage = await self._dialled(slot, place)
            except BaseException:
                self.release(slot, slot.load)
                raise
            if slot.link.connection is not None:
                return slot, slot.link.connection
            self.release(slot, slot.load)
            if shortage is not None:
                await self._bear(shortage, place)

    async def _bear(self, shortage: Shortage, place: Waiting) -> None:
        """Wait until *place* may try again.

        Raises:
            BackendOverloaded: It has tried often enough.
            DeadlineExceeded: Its time is up.
        """
        place.shortages += 1
        if place.shortages >= SHORT_TRIES:
            raise BackendOverloaded(f"backend {self.name!r}: {shortage}")
        wait_s = SHORTAGE.wait_s(place.shortages)
        await asyncio.sleep(min(wait_s, max(0.0, place.deadline - self._loop.time())))
        if place.expired:
            raise place.too_late()

    async def _wait(self, place: Waiting, again: bool) -> Slot[Link]:
        if place.expired:
            raise place.too_late()
        if not len(self.replicas):
            raise self._nobody()
        if len(self._line) >= self._max_queued and not place.admitted:
            raise self._full()
        granted: asyncio.Future[Slot[Link]] = self._loop.create_future()
        place.granted, place.admitted = granted, True
        self._line[granted] = None
        if again:
            self._line.move_to_end(granted, last=False)
        self._watch_line()
        try:
            return await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                slot = granted.result()  # both happened in one turn of the loop
                self.release(slot, slot.load)
            raise
        finally:
            place.granted = None
            self._line.pop(granted, None)

    def release(self, slot: Slot[Link], load: int) -> None:
        """Give *slot* back; the next in line gets it."""
        self.replicas.release(slot, load)
        self._released(slot)

    def refuse(self, slot: Slot[Link], load: int, reason: str) -> None:
        """Give *slot* back, which was rejected for *reason*."""
        if reason == "full":
            self.replicas.refuse(slot, load)
            if slot.in_flight == 0:  # no answer of ours will reopen it
                self._loop.call_later(FULL_AGAIN_S * (1 + random.random()), self._reopen, slot)
        else:
            if reason in ("draining", "foreign") and not slot.down:
                self.replicas.mark(slot, down=True)
                self._loop.call_later(ASIDE_S * (1 + random.random()), self._ask_again, slot)
            self.replicas.release(slot, load)
        self._released(slot)

    def _released(self, slot: Slot[Link]) -> None:
        if not slot.member and slot.in_flight == 0:
            self._hang_up(slot)
        if self._line:
            self._serve_line()

    def _reopen(self, slot: Slot[Link]) -> None:
        self.replicas.reopen(slot)
        self._serve_line()

    def _ask_again(self, slot: Slot[Link]) -> None:
        """Use a replica again that was set aside: what it said may have been wrong, and nothing else would tell."""
        if slot.member and not slot.link.silent and slot.link.redial is None:
            self.replicas.mark(slot, down=False)
            self._serve_line()

    def _serve_line(self) -> None:
        line = self._line
        while line:
            granted = next(iter(line))
            if not granted.done():  # else: expired or cancelled
                slot = self.replicas.acquire()
                if slot is None:
                    self._watch_line()
                    return
                granted.set_result(slot)
            del line[granted]

    def _watch_line(self) -> None:
        """See to it that nobody waits for replicas that have all gone."""
        if self._hopeless is None and not self.replicas.usable:
            self._hopeless = self._loop.call_later(NO_REPLICA_WAIT_S, self._give_up)

    def _give_up(self) -> None:
        self._hopeless = None
        if not self.replicas.usable:
            self._dismiss(self._nobody())

    def _dismiss(self, error: Exception) -> None:
        if self._hopeless is not None:
            self._hopeless.cancel()
            self._hopeless = None
        for granted in self._line:
            if not granted.done():
                granted.set_exception(error)
        self._line.clear()

    def _nobody(self) -> BackendOverloaded:
        return BackendOverloaded(f"backend {self.name!r} has no ready replica; nothing was started, so try again")

    def _full(self) -> BackendOverloaded:
        count = len(self.replicas)
        return BackendOverloaded(
            f"backend {self.name!r} is full: {count} replica{'s' if count != 1 else ''} x {self.replicas.limit} "
            f"running, {len(self._line)} of {self._max_queued} waiting in this process (max_queued_queries); nothing "
            "was started, so try again"
        )

    # connections

    async def _dialled(self, slot: Slot[Link], place: Waiting) -> Shortage | None:
        """Wait until *slot* was dialled, whatever came of it; requests that come at once share the dialling.

        Returns:
            What this process lacked, if that is why there is no connection.

        Raises:
            DeadlineExceeded: It takes too long for *place*.
        """
        # `wait` does not cancel the task: one request that gives up must not stop it for the others.
        dialling = self._dialling(slot)
        await asyncio.wait([dialling], timeout=max(0, place.deadline - self._loop.time()))
        if place.expired:
            raise place.too_late()
        return dialling.result() if dialling.done() and not dialling.cancelled() else None

    def _dialling(self, slot: Slot[Link]) -> asyncio.Task[Shortage | None]:
        if slot.link.dialling is None:
            slot.link.dialling = self._loop.create_task(self._dial(slot))
        return slot.link.dialling

    async def _dial(self, slot: Slot[Link]) -> Shortage | None:
        link = slot.link
        try:
            connection = await dial(link.address, self._key, self._generation, self._role)
        except Shortage as shortage:
            _logger.warning("%s", shortage)
            return shortage
        except Exception as error:  # Lost, AuthenticationError, or an address that is none
            self.connects_failed += 1
            _logger.info("replica %s cannot be reached: %s", slot.name, error)
            self._lose(slot)
            return None
        finally:
            link.dialling = None
        link.connection = connection
        if not link.doubted:
            self._trust(link)
        connection.on_change = lambda: self._changed(slot, connection)
        if not connection.usable:
            self._lose(slot)
        elif not slot.member and slot.in_flight == 0:
            self._hang_up(slot)
        return None

    def _changed(self, slot: Slot[Link], connection: CallerConnection) -> None:
        """A connection closed, or its replica takes nothing new."""
        if slot.link.connection is not connection:
            return
        if is_shortage(connection.ended_by):
            slot.link.connection = None  # the next request dials again
        else:
            self._lose(slot)

    def _lose(self, slot: Slot[Link]) -> None:
        link = slot.link
        link.connection = None
        self.replicas.mark(slot, down=True)
        if slot.member and link.redial is None:
            link.redial = self._loop.create_task(self._redial(slot))
        if self._line:
            self._watch_line()

    async def _redial(self, slot: Slot[Link]) -> None:
        waits_s = REDIAL.waits_s()
        while slot.link.connection is None:
            await asyncio.sleep(next(waits_s))
            await asyncio.wait([self._dialling(slot)])
        slot.link.redial = None
        self.replicas.mark(slot, down=False)
        self._serve_line()

    def _retire(self, replica: str) -> None:
        slot = self.replicas.remove(replica)
        if slot.link.redial is not None:
            slot.link.redial.cancel()
        self._retired.add(slot)
        if slot.in_flight == 0:
            self._hang_up(slot)

    def _hang_up(self, slot: Slot[Link]) -> None:
        self._retired.discard(slot)
        connection, slot.link.connection = slot.link.connection, None
        if connection is not None:
            connection.on_change = None
            connection.close()
