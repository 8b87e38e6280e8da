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
    """The address has no socket, or no process listens on it."""


async def dial(address: SocketAddress, key: Key, generation: str, role: Role) -> CallerConnection:
    """Connect to *address*. Both ends prove that they belong to the instance.

    Raises:
        Lost: No process answers; nothing was sent. It is a `NoListener` if no process listens, and a `Shortage` if this
            process lacks memory, file descriptors or ports.
        AuthenticationError: A process outside the instance answers.
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
    """Return the places to dial for *address*, best first: the unix socket if its file exists, then TCP.

    The file may be left over from a killed process. With a shared path it may also belong to a process on another host.
    In both cases the unix socket fails, and the caller must try the next place.

    Raises:
        NoListener: The address has neither.
    """
    found: list[str | tuple[str, int]] = [address.unix] if os.path.exists(address.unix) else []
    if address.tcp is not None:
        found.append(address.tcp)
    if not found:
        raise NoListener("no", f"{address.name} has no socket any more")
    return found


async def _dial(name: str, place: str | tuple[str, int], key: Key, generation: str, role: Role) -> CallerConnection:
    loop = asyncio.get_running_loop()
    tls = None if isinstance(place, str) else key.tls
    connection = CallerConnection(key, role, identity(generation, name), tls)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            if isinstance(place, str):
                check_socket(place)
                await loop.create_unix_connection(lambda: connection, place)
            else:
                await loop.create_connection(lambda: connection, *place)
            await connection.ready
            if connection.closed:  # in the turn of the loop in which it became ready; nothing will report it any more
                raise Lost("no", f"{name} has closed the connection")
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
    """Do as `dial` does, but retry, because the process ran until now and may only be slow.

    A handshake times out after one second, so that strangers cannot hold connections. A machine that was suspended
    needs longer. A process that does not listen is not dialled again.
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
    """Return a blocking socket that is connected to *address*. The handshake is still to follow.

    Raises:
        OSError: No process answers, or this process lacks memory, file descriptors or ports.
        AuthenticationError: A process of another user answers.
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
