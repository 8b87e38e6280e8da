"""Libraries that replace Python's sockets and threads, which the data plane cannot live with."""

from __future__ import annotations

import sys

from serve_bridge.errors import ConfigError


def patched_by() -> str | None:
    """Return what has replaced Python's sockets and threads in this process: "gevent", "eventlet" or None."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if gevent is not None and gevent.is_module_patched("socket"):
        return "gevent"
    if eventlet is not None and eventlet.is_monkey_patched("socket"):
        return "eventlet"
    return None


def check_not_patched() -> None:
    """Refuse a process that has no real sockets and threads.

    Raises:
        ConfigError: It names the library, and what to do.
    """
    patch = patched_by()
    if patch is not None:
        raise ConfigError(
            f"{patch} has replaced the sockets and threads of this process, and serve_bridge needs the real ones; "
            "run it under gunicorn's sync or gthread workers, or under an ASGI server"
        )
