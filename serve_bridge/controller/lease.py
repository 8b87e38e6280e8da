"""The lease on a non-detached instance: the instance ends soon after the last holder disconnects."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

GRACE_S: Final = 3.0
"""Seconds before an instance without a holder ends. A holder with a broken connection reconnects within this time."""
_logger = logging.getLogger("serve_bridge.controller")


class Lease:
    """The holders of one instance."""

    def __init__(self, instance: str, on_end: Callable[[], object], *, grace_s: float = GRACE_S) -> None:
        """Call *on_end* after *instance* has had no holder for *grace_s* seconds."""
        self._instance = instance
        self._grace_s = grace_s
        self._on_end = on_end
        self._holders = 0
        self._end: asyncio.TimerHandle | None = None
        self._closed = False

    def expect(self) -> None:
        """Start the grace time, unless there is a holder already."""
        if not self._holders and not self._closed:
            self._end = asyncio.get_running_loop().call_later(self._grace_s, self._ended)

    async def hold(self) -> None:
        """Hold the lease until cancelled."""
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
        """Whether the lease has no holder, so that the instance will end soon."""
        return self._end is not None

    def _ended(self) -> None:
        _logger.info("the process that started instance %r has gone", self._instance)
        self._on_end()

    def close(self) -> None:
        """Stop the grace time, because the instance ends for another reason."""
        self._closed = True
        if self._end is not None:
            self._end.cancel()
