"""How config classes declare their options: each option once, with its default and its check.

Rule 1: a config is immutable and is checked when it is built. No other module checks an option again.
Rule 2: an option with a bad value raises `ConfigError` (a `ValueError`) with its name. A value of another type than a
    config or a dict raises `TypeError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, Final

from serve_bridge.config.checks import Check
from serve_bridge.errors import ConfigError
from serve_bridge.printable import nearest, shown

MOST_REPLICAS: Final = 10_000
"""Upper limit for `num_replicas` and for the threads of a replica."""
MOST_REQUESTS: Final = 1_000_000
"""Upper limit for numbers of requests, connections or headers."""
MOST_BYTES: Final = 2**40
"""Upper limit for sizes, in bytes."""
MESSAGE_BYTES: Final = 16 * 1024 * 1024
"""Default limit for one WebSocket message, in bytes."""


def option(default: Any, check: Check, *, secret: bool = False) -> Any:
    """Declare one option of a config class: its default and its check. The `repr` of the config omits a secret one."""
    return field(default=default, repr=not secret, metadata={"check": check})


def check_options(config: Any) -> None:
    """Check every option of a new config, and store the values as the checks return them."""
    for each in fields(config):
        value = each.metadata["check"](each.name, getattr(config, each.name))
        object.__setattr__(config, each.name, value)  # the dataclass is frozen, so assignment would raise


def check_keys(config_class: type[Any], options: Mapping[Any, object]) -> None:
    """Raise ConfigError if a key of *options* is not an option; the message suggests the nearest option."""
    known = [each.name for each in fields(config_class)]
    for key in options:
        if key not in known:
            raise ConfigError(f"{config_class.__name__} has no option {shown(key)}{nearest(key, known)}")


def options_of(config_class: type[Any], value: object) -> dict[str, Any]:
    """Return the options of a mapping; None: none. Each key must name an option."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"expected {config_class.__name__} or a dict of its options, got {shown(value)}")
    check_keys(config_class, value)
    return dict(value)
