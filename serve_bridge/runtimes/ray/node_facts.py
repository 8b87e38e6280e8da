"""Facts about a node of Ray, for `serve-bridge doctor`."""

from __future__ import annotations

import os
from pathlib import Path

from serve_bridge.instance.process_facts import resident_bytes
from serve_bridge.runtimes.ray.actors import ReplicaActor


def token_mode() -> str:
    """Return "token" if Ray asks each process for the token of the cluster, "disabled" if it does not.

    "unknown": this version of Ray does not tell.
    """
    try:
        from ray._private.authentication import authentication_utils  # a private part, which another version may lack

        return "token" if authentication_utils.is_token_auth_enabled() else "disabled"
    except (ImportError, AttributeError):
        return "unknown"


def replicas_bytes(processes: Path) -> int:
    """Return the memory of all replicas below the raylet of this process. *processes* is /proc."""
    title = f"ray::{ReplicaActor.__name__}".encode()
    found = 0
    for directory in processes.iterdir():
        if directory.name.isdecimal():
            try:
                parent = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
                is_replica = parent == os.getppid() and (directory / "cmdline").read_bytes().startswith(title)
            except (OSError, IndexError):
                continue
            if is_replica:
                found += resident_bytes(directory)
    return found
