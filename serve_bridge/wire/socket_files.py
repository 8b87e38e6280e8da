"""Unix sockets and their directories, which belong to this user alone.

Rule 1: a unix socket is 0600 in a 0700 directory of this user, and both ends check that.
"""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Final

from serve_bridge.errors import AuthenticationError


def private_directory(directory: Path) -> None:
    """Make *directory*, and those above it that are missing, or check that it is this user's alone.

    Raises:
        OSError: It is a link, belongs to another user, or is open to others; the message has the path and the cure
            that there is at this place.
    """
    if not directory.parent.exists():
        private_directory(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if found.st_uid != os.geteuid():  # in a sticky directory such as /tmp its owner alone can remove it
        raise OSError(f"{directory} belongs to another user")
    if not stat.S_ISDIR(found.st_mode):
        raise OSError(f"{directory} is not a directory; remove it")
    if found.st_mode & 0o077:
        raise OSError(f"{directory} is open to other users; chmod 700 {directory}")


MAX_UNIX_PATH: Final = 107


def bind_unix(path: str) -> socket.socket:
    """Return a socket bound to *path*, 0600, in a directory made 0700.

    Raises:
        OSError: The path is too long, or its directory is open to others.
    """
    if len(os.fsencode(path)) > MAX_UNIX_PATH:
        raise OSError(
            f"socket path of {len(os.fsencode(path))} bytes, the limit is {MAX_UNIX_PATH}: {path}; "
            "set XDG_RUNTIME_DIR to a shorter directory"
        )
    private_directory(Path(path).parent)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.setblocking(False)
    # The generation is in the directory's name: what lies there is a dead predecessor's of the same instance.
    Path(path).unlink(missing_ok=True)
    try:
        sock.bind(path)
        os.chmod(path, 0o600)
    except OSError:
        sock.close()
        raise
    return sock


def check_socket(path: str) -> None:
    """Refuse a socket that could be somebody else's.

    Raises:
        AuthenticationError: *path* is a link, no socket, or another user's; the message has path and cure.
    """
    found = os.lstat(path)
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise AuthenticationError(f"{path} is no socket of this user; remove it")
