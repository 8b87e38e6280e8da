"""What the kernel has been given for a connection and has yet to deliver."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios

__all__ = ["unacknowledged"]


def unacknowledged(connection: socket.socket) -> int:
    """Return how many bytes the kernel has yet to send, or to be told of; 0 where it does not say."""
    try:
        (count,) = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))
    except OSError:
        return 0
    return int(count)
