"""Whether the host of a TCP peer is still there, as the kernel knows it.

The kernel of a host acknowledges what arrives, whatever its processes do: one that hangs or was stopped still has its
data acknowledged, or is full and has that said. Only a host that has gone, or a network that leads nowhere, says
nothing. TCP itself gives up after `transport.SILENCE_S` only, and then also on a peer whose process reads nothing.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import Any, Final

GONE_S: Final = 3.0
"""Seconds in which nothing that was sent is acknowledged, after which the peer's host counts as gone.

The kernel has sent it at least four times by then.
"""
GONE: Final = f"its host has acknowledged nothing for {GONE_S:g} s"
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
