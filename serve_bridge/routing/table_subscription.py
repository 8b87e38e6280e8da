"""The routing tables of one event loop, as the controller sends them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final

from serve_bridge.instance.known_instance import KnownInstance
from serve_bridge.routing_table import RoutingTable, decode_table, encode_version
from serve_bridge.wire.caller_end import CallerConnection
from serve_bridge.wire.frames import Kind

LATE_TIMER_S: Final = 0.5
"""If a timer fires this many seconds late, its loop was blocked, and may not have read a table that has arrived. The
wait then goes on for as many seconds."""

_logger = logging.getLogger("serve_bridge.client")


class TableSubscription:
    """Applies each routing table of the controller, and lets calls wait for a version.

    Attributes:
        version: The version of the newest table; -1 before the first.
        hopeless: Whether waiting is in vain, because the controller speaks another version of the protocol.
    """

    def __init__(self, on_table: Callable[[RoutingTable], None], known: KnownInstance, process: str) -> None:
        """Call *on_table* with every table; *process* is the name by which the controller knows this process."""
        self.version: int = -1
        self.hopeless = False
        self._on_table = on_table
        self._known = known
        self._process = process
        self._arrived = asyncio.Event()

    async def follow(self, connection: CallerConnection) -> None:
        """Apply the tables from *connection*, until it ends.

        Raises:
            Lost: The connection ended.
            Aborted: The controller ended the subscription.
            Rejected: The controller refused the subscription.
        """
        stream = connection.open(Kind.REQUEST, self._process.encode(), end=False)
        try:
            await stream.reply
            async for message in stream.messages():
                table = decode_table(message)
                self._apply(table)
                self.version = table.version
                self._known.table_came()
                self.wake()
                await stream.send_segments([encode_version(table.version)], end=False)
        finally:
            stream.cancel()

    async def wait(self, version: int, until: float) -> bool:
        """Wait for the table of *version* until the time *until* of the monotonic clock; return whether it came."""
        while self.version < version:
            if self.hopeless:
                return False
            left_s = until - time.monotonic()
            if left_s <= 0:
                return False
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), left_s)
            if time.monotonic() - until > LATE_TIMER_S:
                until = time.monotonic() + LATE_TIMER_S
        return True

    def wake(self) -> None:
        """Let waiting calls check again whether they may go on."""
        self._arrived.set()
        self._arrived = asyncio.Event()

    def _apply(self, table: RoutingTable) -> None:
        try:
            self._on_table(table)
        except Exception:  # an exception of the callback must not end the link
            _logger.exception("routing table %d could not be applied", table.version)
