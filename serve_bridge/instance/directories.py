"""The directories of this user's instances: in XDG_RUNTIME_DIR, or in the temporary directory."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

from serve_bridge.wire.socket_files import private_directory

RUNTIME_VARIABLE: Final = "XDG_RUNTIME_DIR"


def base_directory() -> Path:
    """Return the directory of this user's instances."""
    runtime = os.environ.get(RUNTIME_VARIABLE)
    return Path(runtime) / "serve_bridge" if runtime else _temporary_directory()


def base_directories() -> set[Path]:
    """Return the possible directories of instances from another machine."""
    return {base_directory(), _temporary_directory()}


def lasting_directory() -> Path:
    """Return a directory that the system does not delete, to propose for XDG_RUNTIME_DIR."""
    try:
        return Path.home() / ".cache" / "serve_bridge"
    except RuntimeError:  # such as in a container whose user has no entry in /etc/passwd
        return Path("/var/lib/serve_bridge")


def directory_name(name: str, generation: str) -> str:
    """Return the name of the directory of one instance."""
    # A name may have 128 characters, but the path of a socket only 107. The generation makes the result unique.
    return f"{name[:24]}-{generation}"


def directory_here(name: str) -> Path:
    """Return the directory called *name* on this machine, for the sockets of an instance from another machine.

    It is in XDG_RUNTIME_DIR if this user can write there, which may need a login. Otherwise it is in the temporary
    directory.

    Raises:
        OSError: Neither directory can be used.
    """
    try:
        private_directory(base_directory())
    except OSError:
        if not os.environ.get(RUNTIME_VARIABLE):
            raise
    else:
        return base_directory() / name
    private_directory(_temporary_directory())
    return _temporary_directory() / name


def _temporary_directory() -> Path:
    return Path(tempfile.gettempdir()) / f"serve_bridge-{os.geteuid()}"
