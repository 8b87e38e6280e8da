"""The bytes on their way to one client: in this process, in the kernel, or on the wire."""

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
"""Number of unsent bytes at which the answer pauses."""

_ACKNOWLEDGED: Final = struct.Struct("120xQ")
"""The field `tcpi_bytes_acked` of Linux's `struct tcp_info`."""


class SendQueue:
    """The bytes on their way to one client.

    Attributes:
        written: Number of all bytes written.
    """

    __slots__ = ("_is_tls", "_pace", "_share", "_taken", "_transport", "written")

    def __init__(self, transport: asyncio.Transport, buffers: Buffers, *, is_tls: bool, least_rate: int) -> None:
        if is_tls:  # the default limit of TLS is eight times that of plain connections
            transport.set_write_buffer_limits(UNSENT_BYTES)
        self._transport = transport
        self._is_tls = is_tls
        self._taken = 0
        self.written: int = 0
        self._pace = Pace(least_rate)
        self._share = Share(buffers)

    def write(self, data: bytes) -> None:
        """Write *data*."""
        self.written += len(data)
        if not self._is_tls or len(data) <= UNSENT_BYTES:
            self._transport.write(data)
            return
        # asyncio's TLS passes each write on as a whole, and then no longer counts its bytes as unsent. A large write
        # would escape flow control, so it becomes several.
        view = memoryview(data)
        for start in range(0, len(data), UNSENT_BYTES):
            self._transport.write(view[start : start + UNSENT_BYTES])

    def unsent(self) -> int:
        """Return the number of bytes written and not yet received by the client."""
        unsent = self._transport.get_write_buffer_size()
        if self._is_tls:  # a TLS transport does not count the bytes of the transport below it
            unsent += _unacknowledged(self._transport.get_extra_info("socket"))
        return unsent

    def count(self, others: int) -> None:
        """Count the unsent bytes in this process as held, and *others*, which the connection holds beside them."""
        self._share.set(self._transport.get_write_buffer_size() + others)

    def give_back(self) -> None:
        """Hold no bytes any more, because the connection is lost or has become a WebSocket."""
        self._share.give_back()

    def is_too_slow(self, elapsed: float, limit_s: float) -> bool:
        """Return whether the client receives too slowly.

        Args:
            elapsed: Seconds since the last call.
            limit_s: Upper limit for the time without a received byte, in seconds. It starts again whenever the client
                has received all bytes.
        """
        unsent = self.unsent()
        taken = _acknowledged(self._transport.get_extra_info("socket")) if self._is_tls else self.written - unsent
        moved, self._taken = taken - self._taken, taken
        if not unsent:
            self._pace.left_s = limit_s
            return False
        return self._pace.spend(elapsed, moved, limit_s)


def _acknowledged(connection: socket.socket | None) -> int:
    """Return the number of bytes which the client has acknowledged, TLS included; 0: unknown.

    TLS passes megabytes on to the transport below it, which tells no size. A count of unsent bytes would fall and rise
    again, as if the client had given bytes back.
    """
    if connection is None:  # as in `_unacknowledged`
        return 0
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKNOWLEDGED.size)
    except OSError:
        return 0
    return int(_ACKNOWLEDGED.unpack(info)[0]) if len(info) == _ACKNOWLEDGED.size else 0


def _unacknowledged(connection: socket.socket | None) -> int:
    """Return the number of bytes in the kernel without an acknowledgement of the client; 0: unknown."""
    if connection is None:  # the transport below TLS has closed, and TLS has not noticed yet
        return 0
    try:
        (count,) = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))
    except (OSError, ValueError):  # a ValueError: the socket is closed
        return 0
    return int(count)
