"""The ports of the nodes' proxies: a process on each node keeps its port open while proxies end and begin.

Rule 1: a new keeper gets the port from a running proxy of its node. Keeper and proxies must all end to close the port.
Rule 2: the port of a proxy of an earlier version is copied, because that proxy cannot give it.
Rule 3: a keeper is not needed for service. Without one, the next proxy binds the port.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

from serve_bridge.controller.runtime import Runtime
from serve_bridge.controller.tracked_process import CONTROL_TIMEOUT_S
from serve_bridge.controller.tracked_proxy import TrackedProxy

KEEPER_S: Final = 20.0
"""Upper limit for the start of a keeper on another node, in seconds."""

RELEASE_S: Final = 5.0
"""Upper limit for the end of a keeper, in seconds."""

GIVING_VERSION: Final = 3
"""The first version of the wire whose proxies can give their port."""

_logger = logging.getLogger("serve_bridge.controller")


def port_of(url: str) -> int:
    """Return the port in the *url* of a proxy."""
    return int(url.rpartition(":")[2])


class KeptPorts:
    """The kept ports of one instance.

    Args:
        runtime: Starts the keepers.
        directory: Directory of the instance on the controller's node.
    """

    def __init__(self, runtime: Runtime, directory: str) -> None:
        self._runtime = runtime
        self._directory = directory
        self._nodes: set[str] = set()

    async def keep(self, node: str, proxies: Iterable[TrackedProxy]) -> bool:
        """Keep the port on *node* open. A keeper without the port gets it from one of *proxies* there.

        Return whether the keeper holds the port.
        """
        self._nodes.add(node)
        try:
            async with asyncio.timeout(KEEPER_S):
                if await self._runtime.keep_port(node, self._directory):
                    return True
        except Exception as error:  # the proxies of the node serve without a keeper too
            _logger.warning("nothing keeps the port on node %s: %s", node, error or type(error).__name__)
            return False
        for proxy in proxies:
            if proxy.node == node and await self._gets_port(proxy):
                return True
        return False

    async def release(self, node: str) -> None:
        """Keep the port on *node* no longer."""
        self._nodes.discard(node)
        try:
            async with asyncio.timeout(RELEASE_S):
                await self._runtime.release_port(node)
        except Exception as error:  # the node, or Ray's control plane, has gone
            _logger.warning("the keeper of the port on node %s: %s", node, error or type(error).__name__)

    async def release_all(self) -> None:
        """Keep no port any longer."""
        await asyncio.gather(*(self.release(node) for node in list(self._nodes)))

    async def keep_only(self, alive: Iterable[str]) -> None:
        """Forget the nodes that are not *alive*."""
        for node in self._nodes.difference(alive):
            await self.release(node)

    async def _gets_port(self, proxy: TrackedProxy) -> bool:
        try:
            if proxy.connection is not None and proxy.connection.version < GIVING_VERSION:
                async with asyncio.timeout(KEEPER_S):
                    return await self._runtime.copy_port(proxy.node, port_of(proxy.url))
            is_held: bool = await proxy.control("@give_port", timeout_s=CONTROL_TIMEOUT_S)
        except Exception as error:  # the next look tries again
            _logger.debug("%s does not give its port: %s", proxy, error)
            return False
        return is_held
