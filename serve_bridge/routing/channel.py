"""The channel of one event loop to an instance: a router, and the controller link that brings its tables."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from serve_bridge.instance.instance import Instance
from serve_bridge.instance.known_instance import KnownInstance
from serve_bridge.routing.controller_link import ControllerLink
from serve_bridge.routing.router import Router
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.codecs import Codec
from serve_bridge.wire.keys import CLIENTS, OPERATORS


class Channel:
    """A router and a controller link on the running loop. They end by `close`, or when the loop cancels its tasks.

    Attributes:
        loop: The loop of the channel.
        router: Sends requests to replicas.
        controller: The link to the controller.
        codec: How arguments and results become bytes, by the role of this process.
    """

    def __init__(
        self,
        instance: Instance,
        known: KnownInstance,
        *,
        lease: bool = False,
        on_moved: Callable[[SocketAddress], object] | None = None,
        on_unknown_key: Callable[[], object] | None = None,
    ) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        key = known.key_of(instance)
        self.codec: Codec = instance.codec
        self.router: Router = Router(key, key.strongest(*CLIENTS), known)
        self.controller: ControllerLink = ControllerLink(
            instance.controller,
            key,
            instance.generation,
            key.strongest(*OPERATORS),
            self.router.apply,
            known=known,
            lease=lease,
            listeners=lambda: [] if self.router.table is None else self.router.table.listeners(),
            on_moved=on_moved,
            on_unknown_key=on_unknown_key,
        )
        self.router.catch_up = self.controller.ready
        self.router.expects_table_s = self.controller.expects_table_s
        self.controller.start()
        # asyncio.run() cancels the running tasks before it closes the loop. The cancelled guard closes the sockets.
        self._guard = self.loop.create_task(self._until_cancelled())

    async def close(self) -> None:
        """Drop every connection."""
        self._guard.cancel()
        await asyncio.wait([self._guard])
        await self.controller.close()

    async def _until_cancelled(self) -> None:
        try:
            await self.loop.create_future()
        finally:
            # If the loop was closed without cancelling its tasks, its sockets are closed already.
            if not self.loop.is_closed():
                self.router.close()
                self.controller.hang_up()
