"""A process's link to its controller: the routing table as it changes, and operations.

Rule 1: the link never dies: it reconnects for ever, with jitter, and a listener that raises is logged.
Rule 2: an operation is sent once. If the connection breaks before its answer, the caller is told so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from typing import Any, Final

from serve_bridge.errors import AuthenticationError, NotConnected, ServeBridgeError
from serve_bridge.messages import ReplicaAddress, RoutingTable, decoder
from serve_bridge.publisher import encode_version
from serve_bridge.wire import calls
from serve_bridge.wire.auth import Key, Role
from serve_bridge.wire.body import Aborted, Lost, Rejected
from serve_bridge.wire.caller_end import CallerConnection
from serve_bridge.wire.frames import Kind
from serve_bridge.wire.sockets import dial

RECONNECT_S: Final = (0.02, 1.0)
FIRST_TABLE_S: Final = 5.0

_logger = logging.getLogger("serve_bridge.client")
_decode_table = decoder(RoutingTable)


class ControlLink:
    """The link of one event loop; runs from `start` until `close`.

    Attributes:
        lost: Whether the controller was tried, or reached, and is not there now.
    """

    def __init__(
        self,
        controller: ReplicaAddress,
        key: Key,
        generation: str,
        role: Role,
        on_table: Callable[[RoutingTable], None],
        *,
        lease: bool = False,
    ) -> None:
        """Call *on_table* with every table; with *lease*, keep a non-detached instance alive."""
        self._address = controller
        self._key = key
        self._generation = generation
        self._role = role
        self._on_table = on_table
        self._lease = lease
        self._connection: CallerConnection | None = None
        self.lost = False
        self._connected = asyncio.Event()
        self._has_table = asyncio.Event()
        self._failure = "it does not answer"
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to connect; idempotent."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def ready(self, timeout_s: float = FIRST_TABLE_S) -> None:
        """Wait for the first routing table.

        Raises:
            NotConnected: None came in time.
        """
        if self._has_table.is_set():
            return
        try:
            await asyncio.wait_for(self._has_table.wait(), timeout_s)
        except TimeoutError:
            raise NotConnected(f"the controller at {self._address.unix} cannot be reached: {self._failure}") from None

    async def call(self, operation: str, *args: Any, timeout_s: float, **kwargs: Any) -> Any:
        """Return the result of *operation*.

        Raises:
            NotConnected: The controller cannot be reached, or was lost before it answered.
            DeadlineExceeded: It did not answer in time; the change may yet be made.
            Exception: What the operation raised.
        """
        try:
            await asyncio.wait_for(self._connected.wait(), min(timeout_s, FIRST_TABLE_S))
        except TimeoutError:
            raise NotConnected(f"the controller at {self._address.unix} cannot be reached: {self._failure}") from None
        assert self._connection is not None
        try:
            return await calls.control(self._connection, operation, *args, timeout_s=timeout_s, **kwargs)
        except Lost as lost:
            raise NotConnected(
                f"{operation}: the controller was lost before it answered, the change may have been made: {lost.why}"
            ) from None

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
        delay, longest = RECONNECT_S
        while True:
            try:
                self._connection = await dial(self._address, self._key, self._generation, self._role)
                self._connected.set()
                self.lost = False
                delay = RECONNECT_S[0]
                lease = asyncio.create_task(self._hold_lease(self._connection)) if self._lease else None
                try:
                    await self._subscribe(self._connection)
                finally:
                    if lease is not None:
                        lease.cancel()
            except (Lost, Aborted, Rejected, AuthenticationError, ServeBridgeError) as error:
                self._failure = str(error)
            finally:
                self._connected.clear()
                self.lost = True
                self.hang_up()
            await asyncio.sleep(delay * (0.5 + random.random()))
            delay = min(delay * 2, longest)

    async def _subscribe(self, connection: CallerConnection) -> None:
        stream = connection.open(Kind.REQUEST, b"", end=False)
        try:
            await stream.reply
            async for message in stream.messages():
                table = _decode_table(message)
                self._apply(table)
                self._has_table.set()
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
            await calls.control(connection, "lease", timeout_s=1e9)
