"""The lease on a non-detached instance: who started it holds on, and when nobody does any more it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

GRACE_S: Final = 3.0
"""How long an instance waits for a new lease: a process whose connection broke comes back."""
_logger = logging.getLogger("serve_bridge.controller")


class Lease:
    """Who holds on to one instance."""

    def __init__(self, instance: str, on_end: Callable[[], object], *, grace_s: float = GRACE_S) -> None:
        """Call *on_end* once nobody has held on to *instance* for *grace_s*."""
        self._instance = instance
        self._grace_s = grace_s
        self._on_end = on_end
        self._holders = 0
        self._end: asyncio.TimerHandle | None = None
        self._closed = False

    def expect(self) -> None:
        """Wait for somebody to hold on, but not for ever; somebody may do so already."""
        if not self._holders and not self._closed:
            self._end = asyncio.get_running_loop().call_later(self._grace_s, self._ended)

    async def hold(self) -> None:
        """Hold on until cancelled; never returns."""
        self._holders += 1
        if self._end is not None:
            self._end.cancel()
            self._end = None
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self._holders -= 1
            self.expect()

    @property
    def is_lapsing(self) -> bool:
        """Whether no process holds it, so that the instance is about to end."""
        return self._end is not None

    def _ended(self) -> None:
        _logger.info("the process that started instance %r has gone", self._instance)
        self._on_end()

    def close(self) -> None:
        """The instance ends anyway: expect nobody."""
        self._closed = True
        if self._end is not None:
            self._end.cancel()
