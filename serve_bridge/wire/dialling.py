"""Connections of a caller to a process that listens.

Rule 1: both ends check that a unix socket belongs to this user.
Rule 2: a unix socket comes before TCP, and TCP is dialled if no process of the instance answers on the unix socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Final

from serve_bridge.errors import AuthenticationError
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.caller_end import CallerConnection
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.handshake import identity
from serve_bridge.wire.keys import Key, Role
from serve_bridge.wire.peer import check_socket_peer
from serve_bridge.wire.shortage import Shortage, give_back, is_shortage
from serve_bridge.wire.socket_files import check_socket

CONNECT_TIMEOUT_S: Final = 2.0
"""Upper limit in seconds for one attempt to connect, handshake included."""
TRIES: Final = 4
"""Upper limit for attempts to dial a process that ran until now. After the last one, the process counts as lost."""
SHORT_AGAIN_S: Final = 1.0
"""Seconds that `dial_running` waits if this process lacks memory or file descriptors for a connection."""


class NoListener(Lost):
    """There is no socket at the address, or no process behind it."""


async def dial(address: SocketAddress, key: Key, generation: str, role: Role) -> CallerConnection:
    """Connect to *address* and prove each other.

    Raises:
        Lost: No process answers there; nothing was sent. It is `NoListener` if that is why, and `Shortage` if this
            process lacks what a connection takes.
        AuthenticationError: Somebody else answers there.
    """
    try:
        return await _dial_any(address, key, generation, role)
    except Shortage:
        if not give_back():
            raise
    return await _dial_any(address, key, generation, role)


async def _dial_any(address: SocketAddress, key: Key, generation: str, role: Role) -> CallerConnection:
    places = places_of(address)
    for place in places[:-1]:
        with contextlib.suppress(NoListener, AuthenticationError):
            return await _dial(address.name, place, key, generation, role)
    return await _dial(address.name, places[-1], key, generation, role)


def places_of(address: SocketAddress) -> list[str | tuple[str, int]]:
    """Return where to dial *address*, best first: its unix socket if one lies there, and TCP.

    A socket that lies there may be what a process has left that was killed, or be another host's of the same path. Then
    no process listens there, or another one does, and the next place counts.

    Raises:
        NoListener: Neither is there.
    """
    found: list[str | tuple[str, int]] = [address.unix] if os.path.exists(address.unix) else []
    if address.tcp is not None:
        found.append(address.tcp)
    if not found:
        raise NoListener("no", f"{address.name} has no socket any more")
    return found


async def _dial(name: str, place: str | tuple[str, int], key: Key, generation: str, role: Role) -> CallerConnection:
    loop = asyncio.get_running_loop()
    connection = CallerConnection(key, role, identity(generation, name))
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            if isinstance(place, str):
                check_socket(place)
                await loop.create_unix_connection(lambda: connection, place)
            else:
                await loop.create_connection(lambda: connection, *place)
            await connection.ready
    except BaseException as error:
        connection.close()
        if is_shortage(error):
            raise Shortage("no", f"this process cannot open a connection to {name}: {error}") from error
        if isinstance(error, OSError) and not isinstance(error, AuthenticationError):  # TimeoutError too
            why = f"cannot reach {name}: {str(error) or type(error).__name__}"
            gone = isinstance(error, ConnectionRefusedError | FileNotFoundError)
            raise (NoListener if gone else Lost)("no", why) from error
        raise
    return connection


async def dial_running(address: SocketAddress, key: Key, generation: str, role: Role) -> CallerConnection:
    """Do as `dial` does, for a process that has run until now: while it listens, it is only slow to answer.

    One handshake has a second, so that strangers hold no connection; a machine that has stood still takes longer.
    """
    for _ in range(TRIES - 1):
        try:
            return await dial(address, key, generation, role)
        except NoListener:
            raise
        except Shortage:
            await asyncio.sleep(SHORT_AGAIN_S)
        except Lost:
            pass
    return await dial(address, key, generation, role)


def connect(address: SocketAddress) -> socket.socket:
    """Return a blocking socket that is connected to *address*. Nothing is proved yet.

    Raises:
        OSError: No process answers there, or this process lacks what a connection takes.
        AuthenticationError: Another user's process answers there.
    """
    try:
        return _connect_to_any(address)
    except (OSError, MemoryError) as error:
        if not is_shortage(error) or not give_back():
            raise
    return _connect_to_any(address)


def _connect_to_any(address: SocketAddress) -> socket.socket:
    places = places_of(address)
    for place in places[:-1]:
        with contextlib.suppress(ConnectionRefusedError, FileNotFoundError, AuthenticationError):
            return _connect_to(place)
    return _connect_to(places[-1])


def _connect_to(place: str | tuple[str, int]) -> socket.socket:
    if isinstance(place, str):
        check_socket(place)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.connect(place)
            check_socket_peer(sock)
        except BaseException:
            sock.close()
            raise
        return sock
    sock = socket.create_connection(place, CONNECT_TIMEOUT_S)
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    check_socket_peer(sock)
    return sock
