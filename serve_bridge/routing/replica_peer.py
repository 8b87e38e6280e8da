"""One replica as a router's pool reaches it: the connection, the tries to connect, and the pings.

Rule 1: An unreachable replica gets no requests. The peer dials again with back-off, for as long as the routing table
    lists the replica.
Rule 2: If a replica owes answers and does not answer pings, it gets no requests until the peer hears from it. At least
    half of the replicas stay in use even if none answers pings: if all are silent at once, they are more likely busy
    than dead.
Rule 3: If this process lacks descriptors or memory for a connection, the replica stays in use, since the lack says
    nothing about the replica (`wire.shortage`).
Rule 4: A busy or hanging replica keeps its requests until their deadlines. If the host of a replica has gone, its
    kernel does not acknowledge the pings, and the requests fail at once (`wire.peer`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from serve_bridge.process.backoff import Backoff
from serve_bridge.routing.replica_set import ReplicaSet, Slot
from serve_bridge.routing.waiting_line import WaitingLine, WaitingRequest
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.caller_end import CallerConnection
from serve_bridge.wire.peer import HOST_GONE, HOST_GONE_AFTER_S
from serve_bridge.wire.shortage import Shortage, is_shortage

REDIAL: Final = Backoff(shortest_s=0.05, longest_s=2.0)
"""Waits between the tries to connect to a listed replica."""
LOOK_EVERY_S: Final = 0.5
"""Seconds between two calls of `ReplicaPeer.look`."""
PING_AFTER_QUIET_S: Final = 0.5
"""Seconds of silence after which the peer pings a replica with requests in flight."""
PING_TIMEOUT_S: Final = 1.5
"""Timeout of a ping in seconds. After it, the replica gets no requests."""

Dial: TypeAlias = Callable[[SocketAddress], Awaitable[CallerConnection]]

_logger = logging.getLogger("serve_bridge.router")


class ReplicaPeer:
    """One replica of a pool.

    Attributes:
        slot: The pool's slots on the replica.
        connection: The connection to the replica, while there is one.
    """

    __slots__ = (
        "_address",
        "_dial",
        "_dialling",
        "_is_silent",
        "_is_suspect",
        "_line",
        "_loop",
        "_pinged",
        "_redialling",
        "_replicas",
        "connection",
        "slot",
    )

    def __init__(
        self, address: SocketAddress, replicas: ReplicaSet[ReplicaPeer], line: WaitingLine[ReplicaPeer], dial: Dial
    ) -> None:
        """Add the replica at *address* to *replicas*; *line* has the requests that wait for them."""
        self.connection: CallerConnection | None = None
        self._address = address
        self._replicas = replicas
        self._line = line
        self._dial = dial
        self._loop = asyncio.get_running_loop()
        self._dialling: asyncio.Task[Shortage | None] | None = None
        self._redialling: asyncio.Task[None] | None = None
        self._is_suspect = self._is_silent = False
        self._pinged: float | None = None
        self.slot: Slot[ReplicaPeer] = replicas.add(address.name, self)

    async def connect(self, request: WaitingRequest[ReplicaPeer]) -> Shortage | None:
        """Wait until the next try to connect has ended. Simultaneous requests share one try.

        Returns:
            What this process lacked, if there is no connection for that reason.

        Raises:
            DeadlineExceeded: The deadline of *request* passed first.
        """
        # `wait` does not cancel the task: the dialling must go on for other requests after this request gives up.
        dialling = self._dialled()
        await asyncio.wait([dialling], timeout=max(0, request.deadline - self._loop.time()))
        # `expired` is set up to two ticks after the deadline (`deadlines`). Without the second condition, the request
        # would try again and again until then, and take the whole processor.
        if request.expired or not dialling.done():
            raise request.too_late()
        return None if dialling.cancelled() else dialling.result()

    def look(self, now: float) -> None:
        """Find out whether the replica has fallen silent, or can be heard again; *now* is loop time."""
        connection = self.connection
        if connection is None:
            return
        if connection.gave_up_at is not None:
            connection.check_link()
            if connection.closed:
                return
        pinged = self._pinged
        is_unanswered = pinged is not None and connection.last_heard <= pinged
        if pinged is not None and is_unanswered:
            silent_s = now - pinged
            if silent_s >= HOST_GONE_AFTER_S and connection.is_host_silent(silent_s):
                connection.cut_off(TimeoutError(f"replica {self.slot.name}: {HOST_GONE}"))
                return
        if self._is_silent:
            if pinged is not None and not is_unanswered:
                _logger.info("replica %s answers again", self.slot.name)
                self._trust()
                self._use()
        elif not (connection.session.streams or self._is_suspect):
            self._pinged = None
        elif pinged is None or not is_unanswered:
            self._is_suspect = self._is_suspect and pinged is None
            self._pinged = None
            if self._is_suspect or now - connection.last_heard >= PING_AFTER_QUIET_S:
                self._pinged = now
                connection.ping()
        elif now - pinged >= PING_TIMEOUT_S and self._replicas.can_spare_one:
            _logger.warning("replica %s does not answer pings; it gets no requests", self.slot.name)
            self._is_silent = True
            self._avoid()

    def suspect(self) -> None:
        """Ping the replica soon: a blocking caller gets no answer from it."""
        self._is_suspect = True
        if self.connection is None and not self.slot.down:
            self._dialled()

    def use_again(self) -> None:
        """Use the replica again, unless it is silent or cannot be reached."""
        if self.slot.member and not self._is_silent and self._redialling is None:
            self._use()

    def retire(self) -> None:
        """Take the replica out of the set. Its connection stays open for its requests in flight."""
        self._replicas.remove(self.slot.name)
        if self._redialling is not None:
            self._redialling.cancel()

    def hang_up(self) -> None:
        """Close the connection."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.on_change = None
            connection.close()

    def abandon(self) -> None:
        """Stop dialling and close the connection."""
        for task in (self._dialling, self._redialling):
            if task is not None:
                task.cancel()
        self.hang_up()

    def _trust(self) -> None:
        self._is_suspect = self._is_silent = False
        self._pinged = None

    def _use(self) -> None:
        self._replicas.mark(self.slot, down=False)
        self._line.serve()

    def _avoid(self) -> None:
        self._replicas.mark(self.slot, down=True)
        if self._line.queue:
            self._line.watch()

    # dialling

    def _dialled(self) -> asyncio.Task[Shortage | None]:
        if self._dialling is None:
            self._dialling = self._loop.create_task(self._dial_once())
        return self._dialling

    async def _dial_once(self) -> Shortage | None:
        try:
            connection = await self._dial(self._address)
        except Shortage as shortage:
            _logger.warning("%s", shortage)
            return shortage
        except Exception as error:  # Lost, AuthenticationError, or an invalid address
            _logger.info("replica %s cannot be reached: %s", self.slot.name, error)
            self._lose()
            return None
        finally:
            self._dialling = None
        self.connection = connection
        if not self._is_suspect:
            self._trust()
        connection.on_change = lambda: self._changed(connection)
        if not connection.usable:
            self._lose()
        elif not self.slot.member and self.slot.in_flight == 0:
            self.hang_up()
        return None

    def _changed(self, connection: CallerConnection) -> None:
        """Handle the end of *connection*, or the retirement of its replica."""
        if self.connection is not connection:
            return
        if is_shortage(connection.ended_by):
            self.connection = None  # the next request dials again
        else:
            self._lose()

    def _lose(self) -> None:
        self.connection = None
        if self.slot.member and self._redialling is None:
            self._redialling = self._loop.create_task(self._redial())
        self._avoid()

    async def _redial(self) -> None:
        waits_s = REDIAL.waits_s()
        while self.connection is None:
            await asyncio.sleep(next(waits_s))
            await asyncio.wait([self._dialled()])
        self._redialling = None
        self._use()
