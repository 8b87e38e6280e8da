"""The process's bridge under the running settings; made on first use, again when SERVE_BRIDGE changes."""

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
    """Return the bridge.

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

    Importing the adapter does not load it, since commands such as `migrate` need none.
    """
    import serve_bridge.adapters.bridge.bridge  # noqa: F401


def _declared() -> Iterable[Any]:
    from serve_bridge.adapters.django.declarations import declared  # late: production has no instance in its processes

    return declared()


@contextmanager
def using(given: Bridge) -> Iterator[None]:
    """Let requests that are answered meanwhile use *given*, whatever the settings say; closing it is the caller's."""
    token = _given.set(given)
    try:
        yield
    finally:
        _given.reset(token)


def get_client() -> Client:
    """Return the project's client.

    Raises:
        NotConnected: No instance is running where it was looked for.
    """
    return bridge().client()


def get_handle(endpoint: str) -> Handle:
    """Return a handle for a view to call: `handle.call(...)`, or `await handle.acall(...)`."""
    found = bridge()
    if found.is_local:
        testcase_connections.lend()
    return found.get_handle(endpoint)


@on_change
def close() -> None:
    """Let go of the instance, and end it if it was started in this process; the next use connects again."""
    global _current
    with _lock:
        found, _current = _current, None
    if found is not None:
        found.close()
