"""The queue of requests for a free slot of one backend.

Rule 1: The queue is first in, first out. A rejected request returns to the head.
Rule 2: The queue is bounded. A request that had a place before always gets one again, however long the queue
    is.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from serve_bridge.errors import BackendOverloaded, DeadlineExceeded
from serve_bridge.routing.replica_set import ReplicaSet, Slot

NO_REPLICA_WAIT_S: Final = 1.0
"""Seconds for which requests wait for a new routing table when all replicas of the old one have gone. They wait longer
while the controller is away, since the table may list replicas that were replaced in the meantime."""

Peer = TypeVar("Peer")


class WaitingRequest(Generic[Peer]):
    """A request in need of a slot.

    Attributes:
        deadline: Loop time at which the request expires.
        expired: Whether the deadline has passed.
        admitted: Whether the request had a place in the queue before.
        shortages: How often this process lacked descriptors or memory for a connection of the request.
        granted: Gets the slot; None while the request is not in the queue.
    """

    __slots__ = ("admitted", "deadline", "expired", "granted", "shortages")

    def __init__(self, deadline: float) -> None:
        self.deadline: float = deadline
        self.expired: bool = False
        self.admitted: bool = False
        self.shortages: int = 0
        self.granted: asyncio.Future[Slot[Peer]] | None = None

    def expire(self) -> None:
        """Note the passed deadline; a request in the queue raises `too_late`."""
        self.expired = True
        if self.granted is not None and not self.granted.done():
            self.granted.set_exception(self.too_late())

    def too_late(self) -> DeadlineExceeded:
        """Return the error for a request that was not sent before its deadline."""
        return DeadlineExceeded("no replica had a free slot in time", "no")


class WaitingLine(Generic[Peer]):
    """The queue of one backend in one router.

    Attributes:
        queue: The futures of the waiting requests, in order. Expired and cancelled ones may still be in it.
        limit: Upper limit for the number of waiting requests.
    """

    def __init__(
        self,
        name: str,
        replicas: ReplicaSet[Peer],
        limit: int,
        release: Callable[[Slot[Peer], int], None],
        expects_table_s: Callable[[], float],
    ) -> None:
        """Serve requests to the backend *name* with slots of *replicas*.

        *release* gives a slot back with its load. *expects_table_s* returns the seconds for which a newer table may
        still come, although the controller is away.
        """
        self.queue: OrderedDict[asyncio.Future[Slot[Peer]], None] = OrderedDict()
        self.limit = limit
        self._name = name
        self._replicas = replicas
        self._release = release
        self._expects_table_s = expects_table_s
        self._loop = asyncio.get_running_loop()
        self._giving_up: asyncio.TimerHandle | None = None

    async def wait(self, request: WaitingRequest[Peer], *, first: bool) -> Slot[Peer]:
        """Return a slot as soon as one is free; *first* puts *request* at the head of the queue.

        Raises:
            BackendOverloaded: The queue is full, or the backend has no replica.
            DeadlineExceeded: No slot was free before the deadline.
        """
        if request.expired:
            raise request.too_late()
        if not len(self._replicas):
            raise self._no_replica()
        if len(self.queue) >= self.limit and not request.admitted:
            raise self._full()
        granted: asyncio.Future[Slot[Peer]] = self._loop.create_future()
        request.granted, request.admitted = granted, True
        self.queue[granted] = None
        if first:
            self.queue.move_to_end(granted, last=False)
        self.watch()
        try:
            return await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                slot = granted.result()  # the slot was granted in the same turn of the loop
                self._release(slot, slot.load)
            raise
        finally:
            request.granted = None
            self.queue.pop(granted, None)

    def serve(self) -> None:
        """Give free slots to the requests at the head of the queue."""
        queue = self.queue
        while queue:
            granted = next(iter(queue))
            if not granted.done():  # an expired or cancelled request needs no slot
                slot = self._replicas.acquire()
                if slot is None:
                    self.watch()
                    return
                granted.set_result(slot)
            del queue[granted]

    def watch(self) -> None:
        """Dismiss all requests after `NO_REPLICA_WAIT_S` or later, if no replica can be used until then."""
        if self._giving_up is None and not self._replicas.usable:
            self._giving_up = self._loop.call_later(NO_REPLICA_WAIT_S, self._give_up)

    def dismiss(self, error: Exception) -> None:
        """Raise *error* in all waiting requests."""
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None
        for granted in self.queue:
            if not granted.done():
                granted.set_exception(error)
        self.queue.clear()

    def _give_up(self) -> None:
        self._giving_up = None
        if self._replicas.usable:
            return
        if (left_s := self._expects_table_s()) > 0:
            self._giving_up = self._loop.call_later(left_s, self._give_up)
        else:
            self.dismiss(self._no_replica())

    def _no_replica(self) -> BackendOverloaded:
        return BackendOverloaded(f"backend {self._name!r} has no ready replica; nothing was started, so try again")

    def _full(self) -> BackendOverloaded:
        count = len(self._replicas)
        return BackendOverloaded(
            f"backend {self._name!r} is full: {count} replica{'s' if count != 1 else ''} x {self._replicas.limit} "
            f"running, {len(self.queue)} of {self.limit} waiting in this process (max_queued_queries); nothing "
            "was started, so try again"
        )
