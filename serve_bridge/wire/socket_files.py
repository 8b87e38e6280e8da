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
    """Make *directory* and its missing parents, or check that only this user can open it.

    Raises:
        OSError: The directory is a link, belongs to another user, or is open to others. The message has the path and
            the remedy.
    """
    if not directory.parent.exists():
        private_directory(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if found.st_uid != os.geteuid():  # no remedy: in a sticky directory such as /tmp, only its owner can remove it
        raise OSError(f"{directory} belongs to another user")
    if not stat.S_ISDIR(found.st_mode):
        raise OSError(f"{directory} is not a directory; remove it")
    if found.st_mode & 0o077:
        raise OSError(f"{directory} is open to other users; chmod 700 {directory}")


MAX_UNIX_PATH: Final = 107
"""Upper limit of the kernel for the path of a unix socket, in bytes."""


def bind_unix(path: str) -> socket.socket:
    """Return a unix socket that is bound to *path* with mode 0600, in a directory with mode 0700.

    Raises:
        OSError: The path is too long, or other users can open its directory.
    """
    if len(os.fsencode(path)) > MAX_UNIX_PATH:
        raise OSError(
            f"socket path of {len(os.fsencode(path))} bytes, the limit is {MAX_UNIX_PATH}: {path}; "
            "set XDG_RUNTIME_DIR to a shorter directory"
        )
    private_directory(Path(path).parent)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.setblocking(False)
    # The directory's name has the generation, so an existing file belongs to a dead process of the same instance.
    Path(path).unlink(missing_ok=True)
    try:
        sock.bind(path)
        os.chmod(path, 0o600)
    except OSError:
        sock.close()
        raise
    return sock


def check_socket(path: str) -> None:
    """Refuse a socket that may belong to another user.

    Raises:
        AuthenticationError: *path* is a link, is not a socket, or belongs to another user. The message has the remedy.
    """
    found = os.lstat(path)
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise AuthenticationError(f"{path} is not a socket of this user; remove it")
