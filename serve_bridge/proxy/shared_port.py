"""The port of a proxy, which it shares with the other proxies of its node, and with the keeper of the port."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

from serve_bridge.errors import AuthenticationError
from serve_bridge.http_server.acceptor import listen
from serve_bridge.instance import port_keeper
from serve_bridge.process.engine_threads import on_engine_thread

_logger = logging.getLogger("serve_bridge.proxy")


class SharedPort:
    """The listening socket of one proxy.

    Args:
        keeper: Path of the unix socket of the keeper on this node.
    """

    def __init__(self, keeper: Path) -> None:
        self._keeper = keeper
        self._listener: socket.socket | None = None

    async def listen(self, host: str, port: int) -> socket.socket:
        """Return a copy of the keeper's listening socket. If the keeper has none, bind one and give it a copy.

        Raises:
            OSError, ValueError: The proxy cannot listen on *host* and *port*.
        """
        self._listener = await self._taken()
        if self._listener is None:
            self._listener = await listen(host, port)
            await self.give()
        return self._listener

    async def _taken(self) -> socket.socket | None:
        try:
            return await on_engine_thread(port_keeper.take, self._keeper)
        except (OSError, AuthenticationError) as error:
            _logger.warning("the port has no keeper: %s", error)
            return None

    async def give(self) -> bool:
        """Give a copy of the listening socket to the keeper. Return whether the keeper holds one now."""
        if self._listener is None or self._listener.fileno() < 0:  # the proxy drains
            return False
        try:
            return await on_engine_thread(port_keeper.give, self._keeper, self._listener)
        except (OSError, AuthenticationError) as error:
            _logger.warning("the port has no keeper, so it closes when its last proxy ends: %s", error)
            return False
