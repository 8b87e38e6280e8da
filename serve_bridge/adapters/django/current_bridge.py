"""The bridge of the process. It is made on first use, and made again when the setting SERVE_BRIDGE changes."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from serve_bridge.adapters.django import testcase_connections
from serve_bridge.adapters.django.settings import on_change, options

if TYPE_CHECKING:
    from serve_bridge.adapters.bridge.bridge import Bridge
    from serve_bridge.client.client import Client
    from serve_bridge.client.handle import Handle

_lock = threading.Lock()
_current: Bridge | None = None
_given: ContextVar[Bridge | None] = ContextVar("serve_bridge_given", default=None)


def bridge() -> Bridge:
    """Return the bridge of the process, or the one of `using`.

    Raises:
        ConfigError, TypeError: The setting SERVE_BRIDGE is wrong.
    """
    global _current
    found = _given.get() or _current
    if found is None:
        with _lock:
            if _current is None:
                from serve_bridge.adapters.bridge.bridge import Bridge  # late: see `load_bridge`

                chosen = options()
                _current = Bridge(
                    chosen.address,
                    name=chosen.name,
                    runtime=chosen.runtime,
                    timeout_s=chosen.timeout_s,
                    declared=_declared,
                )
            found = _current
    return found


def load_bridge() -> None:
    """Load the code of a bridge, so that the workers of a web server share it.

    The import of the adapter does not load it, because commands such as `migrate` need no bridge.
    """
    import serve_bridge.adapters.bridge.bridge  # noqa: F401


def _declared() -> Iterable[Any]:
    from serve_bridge.adapters.django.declarations import (
        declared,  # late: an instance in production gets its backends by `deploy`
    )

    return declared()


@contextmanager
def using(given: Bridge) -> Iterator[None]:
    """Let requests inside this context use *given* instead of the bridge of the settings. The caller closes *given*."""
    token = _given.set(given)
    try:
        yield
    finally:
        _given.reset(token)


def get_client() -> Client:
    """Return the client of the project.

    Raises:
        NotConnected: No instance is running at the address.
    """
    return bridge().client()


def get_handle(endpoint: str) -> Handle:
    """Return a handle for *endpoint*, with `handle.call(...)` and `await handle.acall(...)`.

    Its calls have the timeout of forwarded requests. An unknown endpoint is an error of the call.

    Raises:
        NotConnected: No instance is running at the address.
        ConfigError, TypeError: The setting SERVE_BRIDGE is wrong.
    """
    found = bridge()
    if found.is_local:
        testcase_connections.lend()
    return found.get_handle(endpoint)


@on_change
def close() -> None:
    """Disconnect from the instance, and shut it down if this process has started it. The next use connects again."""
    global _current
    with _lock:
        found, _current = _current, None
    if found is not None:
        found.close()
