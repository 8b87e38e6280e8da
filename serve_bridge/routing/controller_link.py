"""The link of an event loop to the controller: it brings routing tables, and carries operations.

Rule 1: The link never gives up. It reconnects for ever, with back-off, and logs the exceptions of its callbacks.
Rule 2: An operation is sent once. If the connection breaks before its answer, the error tells the caller so.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from serve_bridge.errors import AuthenticationError, DeadlineExceeded, NotConnected, ServeBridgeError
from serve_bridge.instance.controller_search import find_controller
from serve_bridge.instance.known_instance import KnownInstance, process_id
from serve_bridge.instance.operations import AnswerLost, Operation
from serve_bridge.process.backoff import Backoff
from serve_bridge.routing.table_subscription import TableSubscription
from serve_bridge.routing_table import RoutingTable
from serve_bridge.wire import calls_made as calls
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.caller_end import CallerConnection
from serve_bridge.wire.dialling import dial
from serve_bridge.wire.endings import Aborted, Lost, Rejected
from serve_bridge.wire.handshake import UnknownKey, VersionMismatch
from serve_bridge.wire.keys import Key, Role

RECONNECT: Final = Backoff(shortest_s=0.02, longest_s=0.5)
"""Waits between the tries to connect to the controller."""
SEARCH_AFTER_FAILURES: Final = 3
"""Failed tries in a row after which the link asks replicas and proxies where the controller is."""
FIRST_TABLE_S: Final = 5.0
"""Seconds for which all calls of a process together wait for an absent controller."""
RETURN_S: Final = 5.0
"""Seconds for which a newer table is expected after the controller was lost, since another one starts in its place."""
HOPELESS_RETRY_S: Final = 1.0
"""Seconds between the tries to connect to a controller with another version of the protocol."""
LEASE_S: Final = 1e9
"""Timeout of the operation that holds a lease: longer than any process lives."""


class ControllerLink:
    """The link of one event loop; it runs from `start` until `close`.

    Attributes:
        lost: Whether the link has tried to connect, or was connected, and is not connected now.
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
        listeners: Callable[[], Sequence[SocketAddress]] = list,
        on_moved: Callable[[SocketAddress], object] | None = None,
        on_unknown_key: Callable[[], object] | None = None,
    ) -> None:
        """Prepare a link to *controller*.

        Args:
            controller: Address of the controller, as far as it is known.
            key: Key of the instance.
            generation: Generation of the instance.
            role: Role of this process.
            on_table: Called with every routing table.
            known: What this process knows of the instance. None: this link is the only one, and makes no changes.
            lease: Whether this link keeps a non-detached instance alive.
            listeners: Returns the replicas and proxies to ask where an absent controller is.
            on_moved: Called with the address at which the controller was found then.
            on_unknown_key: Called if the controller does not know the key, before the next try.
        """
        self._address = controller
        self._key = key
        self._generation = generation
        self._role = role
        self._lease = lease
        self._listeners = listeners
        self._on_moved = on_moved
        self._on_unknown_key = on_unknown_key
        self._connection: CallerConnection | None = None
        self._process = "" if known is None else process_id()
        self._known = KnownInstance() if known is None else known
        self._tables = TableSubscription(on_table, self._known, self._process)
        self.lost: bool = False
        self._lost_at = 0.0
        self._connected = asyncio.Event()
        self._failure = "it does not answer"
        self._task: asyncio.Task[None] | None = None

    @property
    def controller(self) -> SocketAddress:
        """The address at which the link looks for the controller."""
        return self._known.controller or self._address

    def move(self, controller: SocketAddress) -> None:
        """Look for the controller at *controller* from now on."""
        self._known.controller = controller

    def start(self) -> None:
        """Begin to connect; further calls do nothing."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def ready(self, timeout_s: float = FIRST_TABLE_S) -> None:
        """Wait at most *timeout_s* for the newest routing table known to this process.

        All calls of a process wait together for `FIRST_TABLE_S`. After that, no call waits until a table has arrived
        again. A router with an older table keeps using it.

        Raises:
            NotConnected: No table has arrived, and the controller does not answer.
            DeadlineExceeded: *timeout_s* ended before the link knew whether the controller answers.
        """
        wanted, known, tables = self._known.version, self._known, self._tables
        ends = time.monotonic() + timeout_s
        failure = ""
        while tables.version < wanted:
            left_s = known.begin_wait(FIRST_TABLE_S)
            patience_ends = time.monotonic() + left_s
            try:
                if not await tables.wait(wanted, min(ends, patience_ends)):
                    reason = f"the controller at {self.controller.place} cannot be reached: {self._failure}"
                    if ends >= patience_ends or tables.hopeless:
                        failure = reason
                    elif self.lost and tables.version < 0:
                        raise NotConnected(reason)
                    else:
                        raise DeadlineExceeded("the routing table did not come in time", "no")
            finally:
                known.end_wait(failure)
            if failure and tables.version < 0:
                raise NotConnected(failure)
            if failure:
                return

    def expects_table_s(self) -> float:
        """Return the seconds for which a newer table may still come, although the controller is away; 0: it is here."""
        return max(0.0, self._lost_at + RETURN_S - time.monotonic()) if self.lost else 0.0

    async def call(self, operation: Operation, *args: Any, timeout_s: float, **kwargs: Any) -> Any:
        """Return the result of *operation*.

        Raises:
            NotConnected: The controller cannot be reached. It is an `AnswerLost` if it was lost before it answered.
            DeadlineExceeded: The controller did not answer in time; it may still make the change.
            Exception: The exception of the operation.
        """
        try:
            await asyncio.wait_for(self._connected.wait(), min(timeout_s, FIRST_TABLE_S))
        except TimeoutError:
            raise NotConnected(
                f"the controller at {self.controller.place} cannot be reached: {self._failure}"
            ) from None
        if self._tables.hopeless:
            raise NotConnected(f"the controller at {self.controller.place} cannot be used: {self._failure}")
        assert self._connection is not None
        try:
            known = operation.arguments(args, self._connection.version)
            version, result = await calls.control(
                self._connection, operation, *known, timeout_s=timeout_s, process=self._process, **kwargs
            )
        except Lost as lost:
            raise AnswerLost(
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
        """Close the connection. An open link connects again, unless its loop ends."""
        if self._connection is not None:
            self._connection.close()

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                self._connection = await self._dial(search=failures >= SEARCH_AFTER_FAILURES)
                self._tables.hopeless = False
                self._connected.set()
                self.lost = False
                failures = 0
                lease = asyncio.create_task(self._hold_lease(self._connection)) if self._lease else None
                try:
                    await self._tables.follow(self._connection)
                finally:
                    if lease is not None:
                        lease.cancel()
            except VersionMismatch as error:  # the controller will not change its version, so waiting is in vain
                self._failure, self._tables.hopeless = str(error), True
            except (Lost, Aborted, Rejected, AuthenticationError, ServeBridgeError) as error:
                self._failure, self._tables.hopeless = str(error), False
                if isinstance(error, UnknownKey) and self._on_unknown_key is not None:
                    self._on_unknown_key()
            finally:
                self._note_end()
                self._note_loss()
                self.hang_up()
            failures += 1
            await asyncio.sleep(HOPELESS_RETRY_S if self._tables.hopeless else RECONNECT.wait_s(failures))

    def _note_loss(self) -> None:
        if not self.lost:
            self.lost, self._lost_at = True, time.monotonic()

    def _note_end(self) -> None:
        """Let waiting calls fail if the link is hopeless; otherwise let them wait for the next connection."""
        if self._tables.hopeless:
            self._connected.set()
            self._tables.wake()
        else:
            self._connected.clear()

    async def _dial(self, *, search: bool) -> CallerConnection:
        address = self.controller
        try:
            return await dial(address, self._key, self._generation, self._role)
        except Lost:
            if not search:
                raise
            found = await find_controller(self._listeners(), self._key, self._generation, left=address)
            if found is None:
                raise
        connection = await dial(found, self._key, self._generation, self._role)
        self._known.controller = found
        if self._on_moved is not None:
            self._on_moved(found)
        return connection

    async def _hold_lease(self, connection: CallerConnection) -> None:
        with contextlib.suppress(Lost, ServeBridgeError):  # `_run` connects again and takes a new lease
            await calls.control(connection, Operation.LEASE, timeout_s=LEASE_S)
