"""Sends the routing table to every router, and knows which router has which version.

Rule 1: a subscriber gets the newest table, but not every table. A slow subscriber does not delay the others.
Rule 2: waiting for a version covers connected subscribers only, and has a timeout. A subscriber that missed the timeout
    is skipped until it has caught up.
Rule 3: a change does not wait for the process of its caller, whose loops may stand still until the change is made.
    Later calls of this process wait for the version themselves (see `known_instance`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Final

from serve_bridge.errors import ProtocolError
from serve_bridge.routing_table import VERSION_BYTES, RoutingTable, decode_version
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.heads import encode_head
from serve_bridge.wire.replica_end import ReplicaStream

asked_by: Final[ContextVar[str | None]] = ContextVar("asked_by", default=None)
"""The process of the caller of the current change; None: no process asked for it."""


class _Subscriber:
    __slots__ = ("acknowledged", "late", "process", "sent")

    def __init__(self, process: str) -> None:
        self.process = process
        self.sent = -1
        self.acknowledged = -1
        self.late = False


class TablePublisher:
    """The newest routing table, and its subscribers."""

    def __init__(self) -> None:
        self._version = -1
        self._encoded = b""
        self._subscribers: set[_Subscriber] = set()
        self._changed = asyncio.Condition()

    async def publish(self, table: RoutingTable) -> None:
        """Send *table* to every subscriber, also to later ones."""
        async with self._changed:
            if table.version > self._version:
                self._version = table.version
                self._encoded = encode_head(table)
                self._changed.notify_all()

    async def serve(self, stream: ReplicaStream, process: str) -> None:
        """Send the tables to one subscriber, in *process*, until it disconnects."""
        subscriber = _Subscriber(process)
        stream.accept_body()
        stream.respond(b"", end=False)
        reader = asyncio.create_task(self._read(stream, subscriber))
        self._subscribers.add(subscriber)
        try:
            while True:
                async with self._changed:
                    await self._changed.wait_for(lambda: subscriber.sent < self._version)
                    encoded, subscriber.sent = self._encoded, self._version
                await stream.send_segments([encoded], end=False)
        except Lost:
            pass
        finally:
            reader.cancel()
            self._subscribers.discard(subscriber)
            stream.abort()
            await self._notify()

    async def acknowledged(self, version: int, timeout_s: float) -> bool:
        """Wait until every subscriber has *version*; return False if one does not have it within *timeout_s*.

        Subscribers in the process of `asked_by` do not count.
        """
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: all(s.acknowledged >= version for s in self._fed()))
        except TimeoutError:
            for subscriber in self._fed():
                subscriber.late = subscriber.acknowledged < version
            return False
        return True

    def _fed(self) -> Iterable[_Subscriber]:
        # A subscriber without a table gets the newest one first, so it need not be waited for.
        spared = asked_by.get()
        return [s for s in self._subscribers if s.sent >= 0 and not s.late and s.process != spared]

    async def _read(self, stream: ReplicaStream, subscriber: _Subscriber) -> None:
        try:
            async for message in stream.messages(VERSION_BYTES):
                subscriber.acknowledged = decode_version(bytes(message))
                subscriber.late = subscriber.late and subscriber.acknowledged < self._version
                await self._notify()
        except (Lost, ProtocolError):
            stream.abort()  # a change would wait for a subscriber with bad acknowledgements

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
