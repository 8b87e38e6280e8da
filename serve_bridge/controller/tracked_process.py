"""A replica or proxy as the controller sees it: its address, and the connection to it while there is one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, ClassVar, Final

from serve_bridge.wire import calls_made as calls
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.caller_end import CallerConnection
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.keys import Role

CONTROL_TIMEOUT_S: Final = 10.0
"""Upper limit for a short operation of a process, in seconds."""

_logger = logging.getLogger("serve_bridge.controller")


class TrackedProcess:
    """One replica or proxy. Its process may run even if its connection is broken (see `contact`).

    Attributes:
        kind: "replica" or "proxy", for the log.
        role: The role in which the controller connects to it.
        id: Its id, unique in the instance.
        address: Where it listens; None while it starts.
        connection: None while it starts, and while it cannot be reached.
    """

    kind: ClassVar[str]
    role: ClassVar[Role]

    def __init__(self, id: str, address: SocketAddress | None = None) -> None:
        self.id = id
        self.address = address
        self.connection: CallerConnection | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"

    def attach(self, connection: CallerConnection, on_change: Callable[[CallerConnection], None]) -> None:
        """Use *connection*. *on_change* gets it when it closes, and when the process starts to drain."""
        self.connection = connection
        connection.on_change = lambda: on_change(connection)

    def disconnect(self) -> None:
        """Close the connection, if there is one; its `on_change` is not called."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.on_change = None
            connection.close()

    async def control(self, operation: str, *args: object, timeout_s: float, **kwargs: Any) -> Any:
        """Ask the process for *operation*, and return the result.

        Raises:
            Lost: The process cannot be reached.
            TimeoutError: It did not answer in time.
            Exception: The error of the operation.
        """
        if self.connection is None:
            raise Lost("no", f"{self} is not connected")
        return await calls.control(self.connection, operation, *args, timeout_s=timeout_s, **kwargs)

    async def announce(self, controller: SocketAddress) -> None:
        """Tell the process the address of the controller. A process without a connection learns it once it has one."""
        if self.connection is None:
            return
        try:
            await self.control("@move", controller, timeout_s=CONTROL_TIMEOUT_S)
        except Exception as error:  # the process is busy, or the controller is about to find it dead
            _logger.warning("%s was not told where the controller is: %s", self, error)

    async def renew_keys(self, text: str) -> None:
        """Give the process the new keys in *text*; a failure is only logged."""
        if self.connection is None:
            return
        try:
            await self.control("@keys", text, timeout_s=CONTROL_TIMEOUT_S)
        except Exception as error:  # the process may be of an earlier version, or is about to be found dead
            _logger.warning("%s did not take the new keys: %s", self, error)

    async def drain(self, grace_s: float) -> None:
        """Let the process finish its work, for at most *grace_s* seconds; a failure is only logged."""
        try:
            await self.control("@drain", grace_s, timeout_s=grace_s + CONTROL_TIMEOUT_S)
        except Exception as error:  # the controller ends the process in any case
            _logger.warning("%s did not drain: %s", self, error or type(error).__name__)
