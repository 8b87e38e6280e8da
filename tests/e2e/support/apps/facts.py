"""What a web server's process says of itself: who it is, and what of the engine is in it."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
import threading
from typing import Any

WORKER = "x-worker"
"""The header in which every answer names the process that gave it."""


def facts() -> dict[str, Any]:
    """Return this process's id, and the threads, connections and modules that it should not have before it forwards."""
    return {
        "pid": os.getpid(),
        "threads": [thread.name for thread in threading.enumerate() if thread.name.startswith("serve_bridge")],
        "connections": connections(),
        "ray": "ray" in sys.modules,
        "package": os.path.dirname(sys.modules["serve_bridge"].__file__ or ""),
        "version": sys.modules["serve_bridge"].__version__,
    }


def connections() -> list[str]:
    """Return the unix sockets of instances that this process is connected to."""
    own = os.path.join(os.environ["XDG_RUNTIME_DIR"], "serve_bridge", "")
    return [peer for peer in (_peer(int(entry)) for entry in os.listdir("/proc/self/fd")) if peer.startswith(own)]


def _peer(descriptor: int) -> str:
    with contextlib.suppress(OSError):  # closed meanwhile, or nobody is connected to it
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            with socket.socket(fileno=os.dup(descriptor)) as copy:
                peer = copy.getpeername()
                return peer if isinstance(peer, str) else ""
    return ""
