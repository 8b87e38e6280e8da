"""Whether the host of a TCP peer is still there, as the kernel knows it.

The kernel of a host acknowledges what arrives, whatever its processes do: one that hangs or was stopped still has its
data acknowledged, or is full and has that said. Only a host that has gone, or a network that leads nowhere, says
nothing. TCP itself gives up after `TCP_SILENCE_S` only, and then also on a peer whose process reads nothing.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from typing import Any, Final

from serve_bridge.errors import AuthenticationError

HOST_GONE_AFTER_S: Final = 3.0
"""Seconds in which nothing that was sent is acknowledged, after which the peer's host counts as gone.

The kernel has sent it at least four times by then.
"""
HOST_GONE: Final = f"its host has acknowledged nothing for {HOST_GONE_AFTER_S:g} s"
_UNACKNOWLEDGED: Final = struct.Struct("24xI28xI")
"""The fields `tcpi_unacked` (packets) and `tcpi_last_ack_recv` (milliseconds ago) of Linux's `struct tcp_info`."""


def acknowledges_nothing(sock: Any, for_s: float) -> bool:
    """Return whether packets are on their way to the peer of *sock*, and its host has acknowledged none for *for_s*.

    It is False where the system does not tell, and for unix sockets.
    """
    if sys.platform != "linux" or sock.family == socket.AF_UNIX:
        return False
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKNOWLEDGED.size)
    if len(info) < _UNACKNOWLEDGED.size:
        return False
    packets, last_ms = _UNACKNOWLEDGED.unpack(info)
    return bool(packets > 0 and last_ms >= for_s * 1000)


SEND_BUFFER_BYTES: Final = 512 * 1024
"""What the kernel may hold of a unix socket: with its default a long body is sent in twice as many steps."""
TCP_SILENCE_S: Final = 20
"""A TCP peer that acknowledges nothing for so long is dead: its machine may have gone without a word."""
_UCRED = struct.Struct("3i")


def check_socket_peer(sock: Any) -> int | None:
    """Refuse a unix peer of another user, and make room for what it is sent; have the kernel watch over a TCP peer.

    Returns:
        The process id of a unix peer, where the system can tell (Linux).
    """
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, TCP_SILENCE_S // 4)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, TCP_SILENCE_S // 4)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_SILENCE_S * 1000)
        return None
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    return check_peer_uid(sock)


def check_peer_uid(sock: Any) -> int | None:
    """Refuse a unix peer of another user, and return its process id, where the system can tell (Linux).

    Raises:
        AuthenticationError: The peer is another user.
    """
    if hasattr(socket, "SO_PEERCRED"):
        pid, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if uid != os.geteuid():
            raise AuthenticationError(f"the peer is user {uid}")
        return int(pid)
    return None
