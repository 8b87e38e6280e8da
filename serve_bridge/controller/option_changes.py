"""Brings running replicas to new options, all of them or none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.controller.tracked_process import CONTROL_TIMEOUT_S
from serve_bridge.controller.tracked_replica import TrackedReplica
from serve_bridge.errors import ReplicaDied
from serve_bridge.specs import BackendSpec
from serve_bridge.wire.endings import Lost

_logger = logging.getLogger("serve_bridge.controller")

End = Callable[[TrackedReplica], Awaitable[None]]
"""Ends a replica at once."""


async def change_options(replicas: list[TrackedReplica], old: BackendSpec, new: BackendSpec, end: End) -> None:
    """Bring *replicas* from the options of *old* to those of *new*, all or none.

    A new `user_config` reaches one replica after another, so the others serve during this time. *end* gets a replica
    whose options are unknown, because it does not answer.

    Raises:
        ReplicaDied: A replica ended, or did not answer in time, while it took a new `user_config`.
        Exception: A replica refuses the new options. All replicas have the old ones again.
    """
    if replace(old.resolved, num_replicas=1) == replace(new.resolved, num_replicas=1):
        return
    if old.config.user_config == new.config.user_config:
        await _configure_all(replicas, old, new)
        return
    done: list[TrackedReplica] = []
    try:
        for replica in replicas:
            await _reconfigure(replica, new.resolved, end)
            done.append(replica)
    except BaseException:
        for replica in done:
            try:
                await _reconfigure(replica, old.resolved, end)
            except Exception as error:  # its options are unknown, so it is replaced
                _logger.warning("%s does not take its old options: %s", replica, error)
                await end(replica)
        raise


async def catch_up(replica: TrackedReplica) -> None:
    """Give *replica* the options that it missed while it was unreachable."""
    try:
        await _configure(replica, replica.config)
    except Exception as error:  # its probes find out what is wrong
        _logger.warning("%s does not take its options: %s", replica, error)


async def _configure_all(replicas: list[TrackedReplica], old: BackendSpec, new: BackendSpec) -> None:
    """Bring *replicas* to options without an effect on user code, all at once."""

    async def configure(replica: TrackedReplica, config: BackendConfig) -> None:
        if replica.connection is not None:
            await _configure(replica, config)
        replica.config = config  # an unreachable replica gets it from `catch_up` later

    outcomes = await asyncio.gather(*(configure(r, new.resolved) for r in replicas), return_exceptions=True)
    # A dead replica is not a failure: its replacement starts with the new options.
    errors = [e for e in outcomes if isinstance(e, BaseException) and not isinstance(e, Lost)]
    if errors:
        done = [r for r, outcome in zip(replicas, outcomes, strict=True) if outcome is None]
        await asyncio.gather(*(configure(r, old.resolved) for r in done), return_exceptions=True)
        raise errors[0]


async def _configure(replica: TrackedReplica, config: BackendConfig) -> None:
    await replica.control("@configure", config, reconfigure=False, timeout_s=CONTROL_TIMEOUT_S)


async def _reconfigure(replica: TrackedReplica, config: BackendConfig, end: End) -> None:
    """Give the `user_config` of *config* to user code. No health probe counts during this time."""
    replica.reconfiguring = True
    try:
        await replica.control("@configure", config, reconfigure=True, timeout_s=config.start_timeout_s)
    except Lost as error:
        raise ReplicaDied(f"{replica} of backend {replica.backend!r} ended in reconfigure()") from error
    except TimeoutError:
        await end(replica)
        raise ReplicaDied(
            f"{replica} of backend {replica.backend!r} did not end reconfigure() within "
            f"start_timeout_s={config.start_timeout_s:g}, and was ended"
        ) from None
    finally:
        replica.reconfiguring = False
    replica.config = config
