"""Unix sockets and their directories, which belong to this user alone.

Rule 1: a unix socket is 0600 in a 0700 directory of this user, and both ends check that.
Rule 2: a process removes its socket when it ends. The process that kills another one removes the socket of that one. A
    socket that no process could remove, as on a node without a controller, goes when the next process of the directory
    begins to listen.
"""

from __future__ import annotations

import os
import socket
import stat
import time
from contextlib import suppress
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


def socket_file(directory: Path, name: str) -> Path:
    """Return the path of the unix socket of the process *name* in *directory*."""
    return directory / f"{name}.sock"


_OLD_S: Final = 60.0
"""Age in seconds from which a socket that refuses a connection is taken for dead. A younger one may not listen yet."""


def remove_dead_sockets(directory: Path) -> None:
    """Remove the sockets in *directory* whose processes have ended without removing them."""
    with suppress(OSError):
        for path in directory.glob("*.sock"):
            with suppress(OSError):
                if time.time() - path.lstat().st_mtime > _OLD_S and _is_dead(path):
                    path.unlink()


def _is_dead(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:  # its queue is full, so it listens
            return False
    return False


def check_socket(path: str) -> None:
    """Refuse a socket that may belong to another user.

    Raises:
        AuthenticationError: *path* is a link, is not a socket, or belongs to another user. The message has the remedy.
    """
    found = os.lstat(path)
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise AuthenticationError(f"{path} is not a socket of this user; remove it")
