"""The process's bridge under the running settings; made on first use, again when SERVE_BRIDGE changes."""

from __future__ import annotations

import threading
from typing import Any

from django.core.signals import setting_changed

from serve_bridge.adapters.bridge import Bridge
from serve_bridge.adapters.django.options import options
from serve_bridge.client import Client
from serve_bridge.handle import Handle

_lock = threading.Lock()
_current: Bridge | None = None


def bridge() -> Bridge:
    """Return the bridge.

    Raises:
        ConfigError, TypeError: The setting SERVE_BRIDGE is wrong.
    """
    global _current
    found = _current
    if found is None:
        with _lock:
            if _current is None:
                chosen = options()
                _current = Bridge(chosen.address, name=chosen.name, timeout_s=chosen.timeout_s)
            found = _current
    return found


def get_client() -> Client:
    """Return the project's client.

    Raises:
        NotConnected: No instance is running where it was looked for.
    """
    return bridge().client()


def get_handle(endpoint: str) -> Handle:
    """Return a handle for a view to call: `handle.call(...)`, or `await handle.acall(...)`."""
    return bridge().get_handle(endpoint)


def _forget(*, setting: str, **_: Any) -> None:
    global _current
    if setting == "SERVE_BRIDGE":
        with _lock:
            found, _current = _current, None
        if found is not None:
            found.close()


setting_changed.connect(_forget, dispatch_uid="serve_bridge.settings")
