"""A copy of the listening socket of another process of this user, which cannot give one itself.

Proxies with version 2 of the wire know no keeper of their port. Without a copy, the port would close while such a
proxy is replaced.

Rule 1: only a process with the expected title is touched, because another program of the user may have the port.
Rule 2: this needs Linux 5.6 and the right to trace the process. Without them there is no copy, and no error.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_LISTEN: Final = "0A"
"""The state of a listening socket in /proc/net/tcp (`TCP_LISTEN` of the kernel)."""
_PIDFD_GETFD: Final = 438
"""Number of the system call, the same on all architectures with Python packages."""


def copied_listener(port: int, title: str) -> socket.socket | None:
    """Return a copy of the socket that listens on *port*, in a process whose title begins with *title*.

    None: there is no such process, or this process may not trace it.
    """
    inodes = {f"socket:[{inode}]" for inode in _listening_on(port)}
    for process in _processes(title) if inodes else ():
        for descriptor in _entries(process / "fd"):
            with suppress(OSError, ValueError):
                if os.readlink(descriptor) in inodes:
                    return _copied(int(process.name), int(descriptor.name))
    return None


def can_copy(port: int, title: str) -> bool:
    """Return whether `copied_listener` finds the socket that listens on *port*, or no process listens there."""
    copy = copied_listener(port, title)
    if copy is None:
        return not any(True for _ in _listening_on(port))
    copy.close()
    return True


def _listening_on(port: int) -> Iterator[str]:
    """Yield the inodes of the sockets that listen on *port*."""
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _processes(title: str) -> Iterator[Path]:
    for process in _entries(_PROC):
        with suppress(OSError):
            if process.name.isdecimal() and (process / "cmdline").read_bytes().startswith(title.encode()):
                yield process


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:  # of another user, or it has ended
        return []


def _copied(process: int, descriptor: int) -> socket.socket:
    """Return a copy of the socket *descriptor* of *process*. A child process does not inherit it.

    Raises:
        OSError: The kernel refuses.
    """
    opened = os.pidfd_open(process)
    try:
        copy = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, opened, descriptor, 0)
    finally:
        os.close(opened)
    if copy < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return socket.socket(fileno=copy)
