"""Directories of sockets: this user's alone, and claimed by each process that listens in them.

Rule 1: a claim is a lock on a file in the directory. The kernel releases it when its holder ends, however that ends; a
process that is slow to answer holds it, and so does one that has not begun to listen.
Rule 2: a directory is removed by a process that has the lock to itself, or by the instance that owns the directory.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import stat
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from serve_bridge.errors import AuthenticationError

_LOCK: Final = "lock"


class Claim:
    """A share in the lock of a directory, until it is released; as a context manager, for the time of the block.

    Attributes:
        directory: What is claimed.
    """

    def __init__(self, directory: Path) -> None:
        """Make *directory*, unless it is there, and take the share.

        Raises:
            OSError: The directory is not this user's alone, or the lock is a link.
        """
        self.directory = directory
        self._lock: int | None = None
        while self._lock is None:  # another process may be removing what a dead one has left under that name
            private_directory(directory)
            self._lock = _locked(directory, fcntl.LOCK_SH, os.O_CREAT)

    def release(self) -> None:
        """Give the share back; twice is once."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.release()
        if error is not None:
            remove_unclaimed(self.directory)


def remove_unclaimed(directory: Path) -> None:
    """Remove *directory* with what is in it if it has a lock that no process holds."""
    try:
        lock = _locked(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # a process holds it, or it is not a file of ours
        return
    if lock is not None:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


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


def _locked(directory: Path, operation: int, flags: int = 0) -> int | None:
    """Return a descriptor of the lock of *directory*; None if the file is not there, or no longer."""
    path = directory / _LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(descriptor, operation)
        if path.lstat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except FileNotFoundError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


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
