"""Files of this user alone, such as keys: written whole, with mode 0600, and refused if others can read them.

Rule: a file is written under another name, flushed to the disk, and renamed; then its directory is flushed. A crash at
    any step leaves the old file or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from serve_bridge.errors import ConfigError
from serve_bridge.wire.socket_files import private_directory

MAX_BYTES: Final = 65536
"""Upper limit for the size of a file that is read, in bytes."""
DRAFT: Final = ".new"
"""The end of the name of a file that is being written. A crash may leave one."""


class UnusableFile(ConfigError):
    """A file does not hold what it should, or not safely."""


def read_private(path: Path, content: str) -> bytes | None:
    """Return what is in the file at *path*; None if there is no such file. *content* says what it should hold.

    Raises:
        UnusableFile: *path* is not a regular file of this user alone.
    """
    try:
        # O_NONBLOCK, because the open of a FIFO would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnusableFile(
                f"{path} is a symbolic link; give the path of the file itself, {os.path.realpath(path)}"
            ) from None
        raise UnusableFile(
            f"{path} cannot be read: {error.strerror}; give the path of a file that this user can read"
        ) from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise UnusableFile(f"{path} is not a regular file, so it holds no {content}; give the path of a file")
        if found.st_uid != os.geteuid():
            raise UnusableFile(f"{path} belongs to another user; run as that user, or use a file of your own")
        if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise UnusableFile(f"{path} holds a key and must be readable by its user alone; chmod 600 {path}")
        return os.read(descriptor, MAX_BYTES)
    finally:
        os.close(descriptor)


def write_private(path: Path, data: bytes, *, flush: bool = True) -> None:
    """Make *data* the content of the file at *path*, with mode 0600.

    A reader sees the old file or the new one, also after a crash. With *flush* the disk has the new file when this
    returns, so it outlives a loss of power. That blocks: an event loop leaves it to a thread.

    Raises:
        OSError: The file cannot be written. The old one is as before.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}{DRAFT}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if flush:
                os.fsync(descriptor)
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    if flush:
        flush_directory(path.parent)


def kept_directory(directory: Path) -> None:
    """Make *directory* and its missing parents as `private_directory` does. The disk has new ones when this returns.

    Raises:
        OSError: The directory is a link, belongs to another user, or is open to others.
    """
    missing = [each for each in (directory, *directory.parents) if not each.exists()]
    private_directory(directory)
    for each in reversed(missing):
        flush_directory(each.parent)


def flush_directory(directory: Path) -> None:
    """Return once the disk has the names of the files in *directory*."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # a directory that this user cannot list, such as the parent of its own one
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
