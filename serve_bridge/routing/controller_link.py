"""A process's link to its controller: the routing table as it changes, and operations.

Rule 1: the link never dies: it reconnects for ever, with jitter, and a listener that raises is logged.
Rule 2: an operation is sent once. If the connection breaks before its answer, the caller is told so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from serve_bridge.errors import AuthenticationError, DeadlineExceeded, NotConnected, ServeBridgeError
from serve_bridge.instance.controller_search import find_controller
from serve_bridge.instance.known_instance import KnownInstance, process_id
from serve_bridge.instance.operations import Operation
from serve_bridge.process.backoff import Backoff
from serve_bridge.routing_table import RoutingTable, decode_table, encode_version
from serve_bridge.wire import calls_made as calls
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.caller_end import CallerConnection
from serve_bridge.wire.dialling import dial
from serve_bridge.wire.endings import Aborted, Lost, Rejected
from serve_bridge.wire.frames import Kind
from serve_bridge.wire.handshake import VersionMismatch
from serve_bridge.wire.keys import Key, Role

RECONNECT: Final = Backoff(shortest_s=0.02, longest_s=1.0)
"""Waits between the tries to connect to the controller."""
SEARCH_AFTER_FAILURES: Final = 3
"""After this many failed tries in a row, replicas and proxies are asked where the controller is."""
FIRST_TABLE_S: Final = 5.0
"""Seconds that the calls of a process wait for its controller, all together."""
LATE_S: Final = 0.5
"""A timer that is so much late ran on a loop that stood still: what has come meanwhile is not read yet."""

_logger = logging.getLogger("serve_bridge.client")


class ControlLink:
    """The link of one event loop; runs from `start` until `close`.

    Attributes:
        lost: Whether the controller was tried, or reached, and is not there now.
        version: The version of the newest table that has come; -1 before the first.
    """

    def __init__(
        self,
        controller: SocketAddress,
        key: Key,
        generation: str,
        role: Role,
        on_table: Callable[[RoutingTable], None],
        *,
        known: KnownInstance | None = None,
        lease: bool = False,
        others: Callable[[], Sequence[SocketAddress]] = list,
        on_moved: Callable[[SocketAddress], object] | None = None,
    ) -> None:
        """Call *on_table* with every table; with *lease*, keep a non-detached instance alive.

        *known* is what the process knows of the instance; None: this link is alone with it, and no caller of a change.
        *others* returns replicas and proxies to ask where an absent controller is; *on_moved* is called with where it
        was found then.
        """
        self._address = controller
        self._key = key
        self._generation = generation
        self._role = role
        self._on_table = on_table
        self._lease = lease
        self._others = others
        self._on_moved = on_moved
        self._connection: CallerConnection | None = None
        self._process = "" if known is None else process_id()
        self._known = KnownInstance() if known is None else known
        self.lost = False
        self.version = -1
        self._connected = asyncio.Event()
        self._table_came = asyncio.Event()
        self._failure = "it does not answer"
        self._is_hopeless = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to connect; idempotent."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def ready(self, timeout_s: float = FIRST_TABLE_S) -> None:
        """Wait for the newest routing table that this process has been told of, for *timeout_s* at most.

        All calls of a process wait together for `FIRST_TABLE_S`, and not again until the controller has been heard. An
        older table that has come serves on after that.

        Raises:
            NotConnected: No table has come, and the controller does not answer.
            DeadlineExceeded: *timeout_s* was too short to know.
        """
        wanted, known = self._known.version, self._known
        ends = time.monotonic() + timeout_s
        failure = ""
        while self.version < wanted:
            left_s = known.begin_wait(FIRST_TABLE_S)
            patience_ends = time.monotonic() + left_s
            try:
                if not await self._reached(wanted, min(ends, patience_ends)):
                    reason = f"the controller at {self.controller.unix} cannot be reached: {self._failure}"
                    if ends >= patience_ends or self._is_hopeless:
                        failure = reason
                    elif self.lost and self.version < 0:
                        raise NotConnected(reason)
                    else:
                        raise DeadlineExceeded("the routing table did not come in time", "no")
            finally:
                known.end_wait(failure)
            if failure and self.version < 0:
                raise NotConnected(failure)
            if failure:
                return

    async def _reached(self, version: int, until: float) -> bool:
        """Wait for table *version*; return whether it has come by *until*."""
        while self.version < version:
            if self._is_hopeless:
                return False
            left_s = until - time.monotonic()
            if left_s <= 0:
                return False
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._table_came.wait(), left_s)
            if time.monotonic() - until > LATE_S:
                until = time.monotonic() + LATE_S
        return True

    async def call(self, operation: Operation, *args: Any, timeout_s: float, **kwargs: Any) -> Any:
        """Return the result of *operation*.

        Raises:
            NotConnected: The controller cannot be reached, or was lost before it answered.
            DeadlineExceeded: It did not answer in time; the change may yet be made.
            Exception: What the operation raised.
        """
        try:
            await asyncio.wait_for(self._connected.wait(), min(timeout_s, FIRST_TABLE_S))
        except TimeoutError:
            raise NotConnected(f"the controller at {self.controller.unix} cannot be reached: {self._failure}") from None
        if self._is_hopeless:
            raise NotConnected(f"the controller at {self.controller.unix} cannot be used: {self._failure}")
        assert self._connection is not None
        try:
            version, result = await calls.control(
                self._connection, operation, *args, timeout_s=timeout_s, process=self._process, **kwargs
            )
        except Lost as lost:
            raise NotConnected(
                f"{operation}: the controller was lost before it answered, the change may have been made: {lost.why}"
            ) from None
        self._known.learn(version)
        return result

    async def close(self) -> None:
        """End the link."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self.hang_up()

    def hang_up(self) -> None:
        """Close the connection; `start`ed links connect again unless their loop ends."""
        if self._connection is not None:
            self._connection.close()

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                self._connection = await self._dial(search=failures >= SEARCH_AFTER_FAILURES)
                self._is_hopeless = False
                self._connected.set()
                self.lost = False
                failures = 0
                lease = asyncio.create_task(self._hold_lease(self._connection)) if self._lease else None
                try:
                    await self._subscribe(self._connection)
                finally:
                    if lease is not None:
                        lease.cancel()
            except VersionMismatch as error:  # to wait for another answer is in vain
                self._failure, self._is_hopeless = str(error), True
            except (Lost, Aborted, Rejected, AuthenticationError, ServeBridgeError) as error:
                self._failure, self._is_hopeless = str(error), False
            finally:
                self._tried()
                self.lost = True
                self.hang_up()
            failures += 1
            await asyncio.sleep(RECONNECT.longest_s if self._is_hopeless else RECONNECT.wait_s(failures))

    @property
    def controller(self) -> SocketAddress:
        """Where the controller is looked for."""
        return self._known.controller or self._address

    def move(self, controller: SocketAddress) -> None:
        """Look for the controller at *controller* from now on."""
        self._known.controller = controller

    async def _dial(self, *, search: bool) -> CallerConnection:
        where = self.controller
        try:
            return await dial(where, self._key, self._generation, self._role)
        except Lost:
            if not search:
                raise
            found = await find_controller(self._others(), self._key, self._generation, left=where)
            if found is None:
                raise
        connection = await dial(found, self._key, self._generation, self._role)
        self._known.controller = found
        if self._on_moved is not None:
            self._on_moved(found)
        return connection

    def _tried(self) -> None:
        """The connection has ended, or there was none: those that wait go on if it is hopeless."""
        if self._is_hopeless:
            self._connected.set()
            self._table_came.set()
            self._table_came = asyncio.Event()
        else:
            self._connected.clear()

    async def _subscribe(self, connection: CallerConnection) -> None:
        stream = connection.open(Kind.REQUEST, self._process.encode(), end=False)
        try:
            await stream.reply
            async for message in stream.messages():
                table = decode_table(message)
                self._apply(table)
                self.version = table.version
                self._known.table_came()
                self._table_came.set()
                self._table_came = asyncio.Event()
                await stream.send_segments([encode_version(table.version)], end=False)
        finally:
            stream.cancel()

    def _apply(self, table: RoutingTable) -> None:
        try:
            self._on_table(table)
        except Exception:  # Rule 1
            _logger.exception("routing table %d could not be applied", table.version)

    async def _hold_lease(self, connection: CallerConnection) -> None:
        with contextlib.suppress(Lost, ServeBridgeError):  # `_run` connects again, and takes a new lease
            await calls.control(connection, Operation.LEASE, timeout_s=1e9)
