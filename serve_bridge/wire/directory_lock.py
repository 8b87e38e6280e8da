"""Claims of a directory of sockets by the processes that listen in it.

Rule 1: a claim is a lock on a file in the directory. The kernel releases it when its holder ends, however that ends; a
process that is slow to answer holds it, and so does one that has not begun to listen.
Rule 2: a directory is removed by a process that has the lock to itself, or by the instance that owns the directory.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from serve_bridge.wire.socket_files import private_directory

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
