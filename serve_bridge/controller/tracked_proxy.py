"""One proxy as the controller sees it, and the progress of its event loop."""

from __future__ import annotations

from typing import ClassVar, Final

from serve_bridge.controller.checkpoint import ProxySnapshot
from serve_bridge.controller.tracked_process import TrackedProcess
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.keys import Role

PROGRESS: Final = 0.01
"""A loop with a smaller share of a processor than this makes no progress."""


Seat = tuple[str, int]
"""A node, and the number of a proxy on it."""


class TrackedProxy(TrackedProcess):
    """One proxy.

    Attributes:
        node: Its node.
        number: Its number on its node, from 0.
        url: Its base URL.
        progress: What the controller has seen of its loop since the proxy fell silent.
    """

    kind: ClassVar[str] = "proxy"
    role: ClassVar[Role] = Role.CONTROLLER

    def __init__(self, id: str, node: str, url: str, address: SocketAddress, number: int = 0) -> None:
        super().__init__(id)
        self.address: SocketAddress = address
        self.node = node
        self.number = number
        self.url = url
        self.progress: LoopProgress = LoopProgress()

    @property
    def seat(self) -> Seat:
        """Its seat, where another proxy takes its place when it ends."""
        return self.node, self.number

    @property
    def snapshot(self) -> ProxySnapshot:
        """The proxy, for the checkpoint."""
        return ProxySnapshot(self.id, self.node, self.url, self.address, self.number)


class LoopProgress:
    """Whether the loop of a silent proxy is busy or stands still.

    Attributes:
        looks: How often the controller has looked.
        is_busy: Whether the loop has used the processor between the last two looks.
    """

    def __init__(self) -> None:
        self.looks: int = 0
        self.is_busy: bool = False
        self._used_s: float | None = None
        self._looked_at = 0.0

    def note(self, used_s: float | None, now: float) -> None:
        """Note the total processor time of the loop by *now*, in seconds; None: it is not known."""
        before, self._used_s = self._used_s, used_s
        passed_s, self._looked_at = now - self._looked_at, now
        self.looks += 1
        grown_s = 0.0 if before is None or used_s is None else used_s - before
        self.is_busy = grown_s > PROGRESS * passed_s
