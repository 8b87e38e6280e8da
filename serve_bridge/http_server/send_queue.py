"""What has been written for one client, and how much of it is still on its way: here, in the kernel, or on the wire."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from typing import Final

from serve_bridge.http_server.buffers import Buffers, Share
from serve_bridge.http_server.pace import Pace

__all__ = ["SendQueue"]

UNSENT_BYTES: Final = 64 * 1024
"""Bytes that a client has not taken at which an answer waits."""


class SendQueue:
    """The way out of one connection.

    Attributes:
        written: Bytes that were written in all.
    """

    __slots__ = ("_is_tls", "_pace", "_share", "_taken", "_transport", "written")

    def __init__(self, transport: asyncio.Transport, buffers: Buffers, *, is_tls: bool, least_rate: int) -> None:
        if is_tls:  # its own limit would be eight times that of plain connections
            transport.set_write_buffer_limits(UNSENT_BYTES)
        self._transport = transport
        self._is_tls = is_tls
        self._taken = self.written = 0
        self._pace = Pace(least_rate)
        self._share = Share(buffers)

    def write(self, data: bytes) -> None:
        """Let *data* follow what was written before."""
        self.written += len(data)
        if not self._is_tls or len(data) <= UNSENT_BYTES:
            self._transport.write(data)
            return
        # What TLS is given at once it hands on at once, and counts no more as unsent.
        view = memoryview(data)
        for start in range(0, len(data), UNSENT_BYTES):
            self._transport.write(view[start : start + UNSENT_BYTES])

    def unsent(self) -> int:
        """Return how many bytes are out of the writer's hands, and not in the client's."""
        unsent = self._transport.get_write_buffer_size()
        if self._is_tls:  # whose transport knows nothing of the one below
            unsent += _unacknowledged(self._transport.get_extra_info("socket"))
        return unsent

    def count(self, to_come: int) -> None:
        """Count what is here as held, and *to_come* bytes that may be ready behind it."""
        self._share.set(self._transport.get_write_buffer_size() + to_come)

    def give_back(self) -> None:
        """Hold nothing any more: the connection is lost, or another's."""
        self._share.give_back()

    def is_too_slow(self, elapsed: float, limit_s: float) -> bool:
        """Return whether the client takes what was written too slowly; *elapsed* is the time since the last call.

        A client that has taken all of it has *limit_s* seconds for what follows.
        """
        taken = self.written - self.unsent()
        moved, self._taken = taken - self._taken, taken
        if taken >= self.written:
            self._pace.left_s = limit_s
            return False
        return self._pace.spend(elapsed, moved, limit_s)


def _unacknowledged(connection: socket.socket) -> int:
    """Return how many bytes the kernel has yet to send, or to be told of; 0 where it does not say."""
    try:
        (count,) = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))
    except OSError:
        return 0
    return int(count)
