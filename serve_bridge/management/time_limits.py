"""Upper limits for operations that start or end replicas, in seconds."""

from __future__ import annotations

from typing import Final

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.management.operator import OPERATION_S

RENEWAL_S: Final = 60.0
"""Upper limit for the start of a proxy and the end of the one before, in seconds."""


def to_create(config: BackendConfig) -> float:
    """Return the limit for a new backend."""
    return config.start_timeout_s + OPERATION_S


def to_update(config: BackendConfig, max_surge: int | None = None, max_unavailable: int | None = None) -> float:
    """Return the limit for new code: new replicas start, then old ones drain.

    An update in bounded room does so in steps, and in the same number of steps back if the new code fails.
    """
    surge = config.max_surge if max_surge is None else max_surge
    unavailable = config.max_unavailable if max_unavailable is None else max_unavailable
    bounded = surge is not None and surge < config.num_replicas
    steps = 2 * (2 + config.num_replicas // max(1, (surge or 0) + unavailable)) if bounded else 1
    return steps * (config.start_timeout_s + config.graceful_shutdown_timeout_s) + OPERATION_S


def to_configure(config: BackendConfig) -> float:
    """Return the limit for new options.

    One replica after another gets a new `user_config`, and the old one again if a later replica refuses the new one.
    """
    return config.start_timeout_s * 2 * config.num_replicas + config.graceful_shutdown_timeout_s + OPERATION_S


def to_delete(config: BackendConfig) -> float:
    """Return the limit for the end of a backend."""
    return config.graceful_shutdown_timeout_s + OPERATION_S


def to_renew_proxies(count: int) -> float:
    """Return the limit for the replacement of *count* proxies, one after another."""
    return count * RENEWAL_S + OPERATION_S
