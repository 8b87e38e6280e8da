"""Upper limits for operations that start or end replicas, in seconds."""

from __future__ import annotations

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.management.operator import OPERATION_S


def to_create(config: BackendConfig) -> float:
    """Return the limit for a new backend."""
    return config.start_timeout_s + OPERATION_S


def to_update(config: BackendConfig) -> float:
    """Return the limit for new code: new replicas start, then old ones drain."""
    return config.start_timeout_s + config.graceful_shutdown_timeout_s + OPERATION_S


def to_configure(config: BackendConfig) -> float:
    """Return the limit for new options.

    One replica after another gets a new `user_config`, and the old one again if a later replica refuses the new one.
    """
    return config.start_timeout_s * 2 * config.num_replicas + config.graceful_shutdown_timeout_s + OPERATION_S


def to_delete(config: BackendConfig) -> float:
    """Return the limit for the end of a backend."""
    return config.graceful_shutdown_timeout_s + OPERATION_S
