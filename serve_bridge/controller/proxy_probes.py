"""Probes of the proxies: the controller pings them, and finds those with a blocked event loop.

Rule 1: a silent proxy is reported only if its loop makes no progress. A busy proxy is left alone, since its end would
    break all its connections.
Rule 2: a proxy whose host cannot be reached is not reported: it may still serve others.
Rule 3: a proxy is asked over the data plane. Only for a silent one is Ray asked, for the processor time of its loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from serve_bridge.controller.runtime import Runtime
from serve_bridge.controller.tracked_proxy import LoopProgress, TrackedProxy
from serve_bridge.wire.caller_end import CallerConnection
from serve_bridge.wire.peer import HOST_GONE_AFTER_S

USED_TIMEOUT_S: Final = 2.0
"""Upper limit for the question how much processor time a loop has used, in seconds."""
LOOK_AFTER_SILENCE_S: Final = 5.0
"""Seconds of silence after which the controller looks whether the loop of a proxy makes progress."""
END_AFTER_SILENCE_S: Final = 10.0
"""Seconds of silence after which a proxy with a blocked loop is ended."""
END_BUSY_AFTER_SILENCE_S: Final = 60.0
"""Seconds of silence after which a proxy is ended although its loop makes progress."""

_logger = logging.getLogger("serve_bridge.controller")


class ProxyProbes:
    """The probes of all proxies of one instance."""

    def __init__(self, runtime: Runtime, on_dead: Callable[[TrackedProxy], None]) -> None:
        """Report a proxy with a blocked event loop with *on_dead*."""
        self._runtime = runtime
        self._on_dead = on_dead

    async def check_all(self, proxies: Iterable[TrackedProxy]) -> None:
        """Check all *proxies* with a connection to the controller."""
        connected = [(proxy, proxy.connection) for proxy in proxies if proxy.connection is not None]
        await asyncio.gather(*(self._check(proxy, connection) for proxy, connection in connected))

    async def _check(self, proxy: TrackedProxy, connection: CallerConnection) -> None:
        """Report *proxy* if it has been silent for too long; otherwise ping it."""
        if connection.is_host_silent(HOST_GONE_AFTER_S):
            connection.close()  # so the controller dials it again, until it answers or has ended
            return
        if _silent_s(connection) <= LOOK_AFTER_SILENCE_S:
            proxy.progress = LoopProgress()
        else:
            await self._look_at_loop(proxy)
        if connection.closed:
            return
        silent_s = _silent_s(connection)  # the answer may have come during the look
        progress = proxy.progress
        # Progress shows at the second look. The controller itself may have stood still before the first one.
        if progress.looks > 1 and silent_s > (END_BUSY_AFTER_SILENCE_S if progress.is_busy else END_AFTER_SILENCE_S):
            _logger.warning("%s has not answered for %.0f s", proxy, silent_s)
            self._on_dead(proxy)
        else:
            connection.ping()

    async def _look_at_loop(self, proxy: TrackedProxy) -> None:
        progress, now = proxy.progress, asyncio.get_running_loop().time()
        was_busy = progress.is_busy
        try:
            async with asyncio.timeout(USED_TIMEOUT_S):
                used_s = await self._runtime.used_s(proxy.id)
        except TimeoutError:
            used_s = None
        progress.note(used_s, now)
        if progress.is_busy and not was_busy:
            _logger.warning("%s is busy: its loop runs, but does not answer", proxy)


def _silent_s(connection: CallerConnection) -> float:
    return asyncio.get_running_loop().time() - connection.last_heard
