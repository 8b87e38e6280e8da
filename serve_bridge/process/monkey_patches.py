"""Libraries that replace Python's sockets and threads. The data plane cannot run in such a process.

A thread of a patched process is a greenlet. The event loop of serve_bridge would never leave it, so the process would
hang.
"""

from __future__ import annotations

import sys
from typing import Final

from serve_bridge.errors import ConfigError

_NEEDED: Final = ("socket", "threading", "thread")
"""Modules of the standard library that must not be replaced, by their names in both libraries."""


def patched_by() -> str | None:
    """Return the library that has replaced sockets or threads in this process: "gevent", "eventlet" or None."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if gevent is not None and any(map(gevent.is_module_patched, _NEEDED)):
        return "gevent"
    if eventlet is not None and any(map(eventlet.is_monkey_patched, _NEEDED)):
        return "eventlet"
    return None


def check_not_patched() -> None:
    """Refuse a process whose sockets or threads are not Python's own.

    Raises:
        ConfigError: A library has replaced them. The message names it and the remedy.
    """
    patch = patched_by()
    if patch is not None:
        raise ConfigError(
            f"{patch} has replaced the sockets and threads of this process, and serve_bridge needs Python's own; use "
            "gunicorn's sync or gthread workers, an ASGI server, or Celery's prefork or threads pool"
        )
