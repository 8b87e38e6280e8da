"""The kernel's knowledge of a socket's peer: the user and process of a unix peer, and the host of a TCP peer.

The kernel of the peer's host acknowledges all data that arrives, or answers that its buffer is full. It does so even if
the peer's process hangs or was stopped. If nothing is acknowledged, the host has gone or the network is broken. TCP
itself closes the connection only after `TCP_SILENCE_S`, and it also does so if the peer's process reads nothing.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from typing import Any, Final

from serve_bridge.errors import AuthenticationError

HOST_GONE_AFTER_S: Final = 3.0
"""Seconds without an acknowledgement after which the peer's host counts as gone.

By then the kernel has sent the data at least four times.
"""
HOST_GONE: Final = f"its host has acknowledged nothing for {HOST_GONE_AFTER_S:g} s"
RESENDINGS: Final = 2
"""Number of times that the kernel has sent the same data again, without an acknowledgement, after which a request that
was given up must not arrive any more.

The kernel adapts its waits to the link. On a fast one this takes 0.6 s.
"""
_UNACKNOWLEDGED: Final = struct.Struct("24xI28xI")
"""The fields `tcpi_unacked` (packets) and `tcpi_last_ack_recv` (milliseconds ago) of Linux's `struct tcp_info`."""
_RESENT: Final = struct.Struct("2xB")
"""The field `tcpi_retransmits` of the same: how often in a row the kernel has sent the same data again."""
_DISCARD: Final = struct.pack("ii", 1, 0)
"""`struct linger`: closing the socket drops the bytes that were not acknowledged, and resets the connection."""


def acknowledges_nothing(sock: Any, for_s: float) -> bool:
    """Return whether data was sent on *sock* and the peer's host has acknowledged nothing for *for_s* seconds.

    The answer is False for unix sockets, and on systems other than Linux.
    """
    if sys.platform != "linux" or sock.family == socket.AF_UNIX:
        return False
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKNOWLEDGED.size)
    if len(info) < _UNACKNOWLEDGED.size:
        return False
    packets, last_ms = _UNACKNOWLEDGED.unpack(info)
    return bool(packets > 0 and last_ms >= for_s * 1000)


def resends_in_vain(sock: Any) -> bool:
    """Return whether the kernel has sent the same data `RESENDINGS` times again without an acknowledgement.

    The answer is False for unix sockets, and on systems other than Linux.
    """
    if sys.platform != "linux" or sock.family == socket.AF_UNIX:
        return False
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RESENT.size)
    return len(info) >= _RESENT.size and bool(_RESENT.unpack(info)[0] >= RESENDINGS)


def discard_at_close(sock: Any) -> None:
    """Let the kernel drop the unacknowledged bytes of a TCP socket as soon as *sock* closes.

    Otherwise it sends them for minutes after the close. When a cut link is back, a request could arrive and start long
    after its caller has given up.
    """
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _DISCARD)


SEND_BUFFER_BYTES: Final = 512 * 1024
"""Size in bytes of the kernel's send buffer of a unix socket. With the default size, a long body takes twice as many
writes."""
TCP_SILENCE_S: Final = 20
"""Seconds without an acknowledgement after which the kernel closes a TCP connection. The peer's machine may have lost
power, so it cannot close the connection itself."""
_UCRED = struct.Struct("3i")


def check_socket_peer(sock: Any) -> int | None:
    """Refuse a unix peer of another user, and set the options of the socket.

    A unix socket gets a large send buffer. For a TCP socket, the kernel watches whether the peer's host still answers.

    Returns:
        The process id of a unix peer on Linux; otherwise None.

    Raises:
        AuthenticationError: The peer is another user.
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
    """Refuse a unix peer of another user. Return the peer's process id on Linux, otherwise None.

    Raises:
        AuthenticationError: The peer is another user.
    """
    if hasattr(socket, "SO_PEERCRED"):
        pid, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if uid != os.geteuid():
            raise AuthenticationError(f"the peer is user {uid}")
        return int(pid)
    return None
