"""Claims of a directory of sockets by the processes that listen in it.

Rule 1: a claim is a shared lock on a file in the directory. The kernel releases the lock when the process ends, even if
    it is killed. A process holds its claim while it is slow, and before it listens.
Rule 2: a process removes a directory only if no other process has a claim, or if its instance owns the directory.
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
    """A shared lock on a directory, held until `release` or the end of a `with` block.

    If the block raises, the directory is removed unless another process has a claim.

    Attributes:
        directory: The claimed directory.
    """

    def __init__(self, directory: Path) -> None:
        """Make *directory* if it does not exist, and take the lock.

        Raises:
            OSError: Other users can open the directory, or the lock file is a link.
        """
        self.directory = directory
        self._lock: int | None = None
        while self._lock is None:  # another process may be removing the directory of a dead process
            private_directory(directory)
            self._lock = _locked(directory, fcntl.LOCK_SH, os.O_CREAT)

    @property
    def is_held(self) -> bool:
        """Whether the locked file is still in the directory, so other processes see the claim."""
        try:
            return self._lock is not None and os.path.samestat((self.directory / _LOCK).lstat(), os.fstat(self._lock))
        except OSError:
            return False

    def release(self) -> None:
        """Release the lock. A second call does nothing."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.release()
        if error is not None:
            remove_unclaimed(self.directory)


def remove_unclaimed(directory: Path) -> bool:
    """Remove *directory* and its files if it has a lock file and no process holds the lock.

    Return False if a process holds the lock, or the file belongs to another user.
    """
    try:
        lock = _locked(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    if lock is not None:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)
    return True


def _locked(directory: Path, operation: int, flags: int = 0) -> int | None:
    """Return a descriptor of the lock file of *directory*; None if there is no file, or it was just removed."""
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
