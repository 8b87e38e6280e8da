"""Files with keys: written whole, with mode 0600, and refused if others can read them."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from serve_bridge.errors import ConfigError

MAX_BYTES: Final = 65536
"""Upper limit for the size of a file, in bytes."""


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
        raise UnusableFile(f"{path} cannot be read: {error.strerror}") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise UnusableFile(f"{path} is not a regular file, so it holds no {content}")
        if found.st_uid != os.geteuid():
            raise UnusableFile(f"{path} belongs to another user; only the user of the {content} can use it")
        if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise UnusableFile(f"{path} holds a key and must be readable by its user alone; chmod 600 {path}")
        return os.read(descriptor, MAX_BYTES)
    finally:
        os.close(descriptor)


def write_private(path: Path, data: bytes) -> None:
    """Write the file at *path* at once, with mode 0600. A reader sees the old file or the new one."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
