"""Health probes: the controller asks each replica periodically whether its user code is well.

Rule 1: a replica that fails twice in a row is replaced. If it answers, it drains first; if not, it is ended at once.
Rule 2: a replica whose host cannot be reached does not fail a probe: it may still serve others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from serve_bridge.controller.lifecycle import ReplicaEvent, ReplicaState
from serve_bridge.controller.tracked_replica import TrackedReplica
from serve_bridge.errors import AuthenticationError, BackendStartError
from serve_bridge.process.task_set import TaskSet
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.peer import HOST_GONE_AFTER_S

_logger = logging.getLogger("serve_bridge.controller")


class HealthProbes:
    """The probes of all replicas, one task for each replica."""

    def __init__(
        self,
        *,
        on_change: Callable[[TrackedReplica], None],
        retire: Callable[[TrackedReplica], Coroutine[Any, Any, None]],
        end: Callable[[TrackedReplica], Awaitable[None]],
    ) -> None:
        """Report a replica whose health has changed with *on_change*.

        *retire* and *end* get a replica that has failed twice: one that answers, and one that does not.
        """
        self._on_change = on_change
        self._retire = retire
        self._end = end
        self._tasks = TaskSet(_logger)

    def start(self, replica: TrackedReplica) -> None:
        """Probe *replica* from now on, until it no longer serves."""
        replica.probing = self._tasks.start(self._run(replica))

    def close(self) -> None:
        """Stop all probes."""
        for task in self._tasks:
            task.cancel()

    async def _run(self, replica: TrackedReplica) -> None:
        while replica.is_serving:
            await asyncio.sleep(replica.config.health_check_period_s)
            connection = replica.connection
            if replica.reconfiguring or connection is None:
                continue
            failure = await self._failure(replica)
            if not replica.is_serving:
                return  # it was retired or lost during the probe
            if replica.reconfiguring:  # the probe may have waited for user code that takes a `user_config`
                continue
            if failure is not None and (connection.closed or connection.is_host_silent(HOST_GONE_AFTER_S)):
                connection.close()  # so the controller dials it again, until it answers or has ended
                continue
            before = replica.state
            replica.take(ReplicaEvent.PROBED if failure is None else ReplicaEvent.PROBE_FAILED)
            if failure is not None and before is ReplicaState.UNHEALTHY:
                await self._replace(replica, failure)
            if replica.state is not before:
                self._on_change(replica)

    async def _replace(self, replica: TrackedReplica, failure: Exception) -> None:
        if isinstance(failure, TimeoutError):
            await self._end(replica)
        else:  # user code answers, so the replica can finish its requests
            replica.take(ReplicaEvent.RETIRED)
            self._tasks.start(self._retire(replica))

    async def _failure(self, replica: TrackedReplica) -> Exception | None:
        """Probe *replica* once; return why that failed, or None."""
        try:
            await replica.control("@check", timeout_s=replica.config.health_check_timeout_s)
        except Exception as error:  # anything that the user's check_health raises
            if replica.connection is not None:
                why = str(error) or type(error).__name__
                _logger.warning("%s failed a health check: %s", replica, why)
            return error
        return None


async def check_first(replica: TrackedReplica) -> None:
    """Probe *replica* for the first time.

    Raises:
        BackendStartError: The user's `check_health` raised.
        Lost, TimeoutError: The replica has ended, or did not answer in time.
    """
    try:
        await replica.control("@check", timeout_s=replica.config.start_timeout_s)
    except (Lost, AuthenticationError, TimeoutError):
        raise
    except Exception as error:
        why = f"its first health check failed: {type(error).__name__}: {error}"
        raise BackendStartError(replica.backend, why) from None
