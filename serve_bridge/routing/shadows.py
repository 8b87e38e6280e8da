"""Copies of requests to shadow backends; the caller never sees an answer or a failure of a copy."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final, TypeAlias

from serve_bridge.process.task_set import TaskSet
from serve_bridge.routing.outgoing_request import OutgoingRequest, Routed
from serve_bridge.routing.replica_pool import ReplicaPool
from serve_bridge.routing.router_statistics import RouterStatistics
from serve_bridge.traffic import TrafficPolicy

MAX_SHADOWS_IN_FLIGHT: Final = 256
"""Upper limit for the running shadow requests of one router. Above it, shadows are dropped."""

Send: TypeAlias = Callable[[ReplicaPool, OutgoingRequest], Awaitable[Routed]]

_logger = logging.getLogger("serve_bridge.router")


class Shadows:
    """The shadow requests of one router."""

    def __init__(self, pools: Mapping[str, ReplicaPool], send: Send, statistics: RouterStatistics) -> None:
        """Send copies with *send* to the backends in *pools*, and count them in *statistics*."""
        self._pools = pools
        self._send = send
        self._statistics = statistics
        self._running = TaskSet(_logger)

    def copy(self, request: OutgoingRequest, policy: TrafficPolicy) -> None:
        """Send copies of *request* to the shadows drawn by *policy*."""
        for backend in policy.shadows_for(random.random):
            pool = self._pools.get(backend)
            is_busy = len(self._running) >= MAX_SHADOWS_IN_FLIGHT
            # A streamed body exists once, so it cannot be copied without delaying the primary request.
            if pool is None or is_busy or isinstance(request.body, AsyncIterator):
                self._statistics.shadows_dropped += 1
            else:
                self._running.start(self._send_copy(pool, request))

    def close(self) -> None:
        """Cancel the running shadow requests."""
        for task in list(self._running):
            task.cancel()

    async def _send_copy(self, pool: ReplicaPool, request: OutgoingRequest) -> None:
        try:
            stream, _ = await self._send(pool, request)
            try:
                async for _ in stream.chunks():
                    pass  # an unread answer would stop its generator, which holds a slot
            finally:
                stream.cancel()
            self._statistics.shadows_sent += 1
        except Exception as error:
            self._statistics.shadows_dropped += 1
            _logger.info("shadow request to %s failed: %s", pool.name, error)
