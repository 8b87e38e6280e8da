"""The setting SERVE_BRIDGE, checked."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from django.conf import settings

from serve_bridge.adapters.bridge import SYNC_TIMEOUT_S
from serve_bridge.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Options:
    """What SERVE_BRIDGE may hold; each key is optional.

    Attributes:
        address: ADDRESS: what `serve_bridge.connect` takes; None is the environment's SERVE_BRIDGE_ADDRESS,
            else this user's instance on this machine.
        name: NAME: which of this user's instances.
        timeout_s: TIMEOUT_S: seconds a forwarded request may take; the default is less than the 30 s after
            which gunicorn kills a worker.
    """

    address: str | None = None
    name: str = "default"
    timeout_s: float = SYNC_TIMEOUT_S


def options() -> Options:
    """Return the options of the running settings.

    Raises:
        ConfigError: A key is unknown; the message suggests the nearest one.
        TypeError: The setting is no dict.
    """
    given: Any = getattr(settings, "SERVE_BRIDGE", {})
    if not isinstance(given, Mapping):
        raise TypeError(f"SERVE_BRIDGE must be a dict, got {type(given).__name__}")
    known = [field.name.upper() for field in fields(Options)]
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            raise ConfigError(f"SERVE_BRIDGE has an unknown key {key!r}{hint}")
    return Options(**{key.lower(): value for key, value in given.items()})
