"""Where data-plane sockets live: listening on them, and dialling them.

Rule 1: a unix socket is 0600 in a 0700 directory of this user, and both ends check that.
Rule 2: TCP listens on one explicit address, and only where other nodes must reach it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from pathlib import Path
from typing import Final

from serve_bridge.errors import AuthenticationError
from serve_bridge.wire.address import ReplicaAddress
from serve_bridge.wire.auth import Key, Role, identity
from serve_bridge.wire.caller_end import CallerConnection
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.replica_end import ReplicaConnection, Service
from serve_bridge.wire.shortage import Shortage, give_back, is_shortage
from serve_bridge.wire.socket_files import Claim, private_directory

MAX_UNIX_PATH: Final = 107
CONNECT_TIMEOUT_S: Final = 2.0
TRIES: Final = 4
"""How often a process that somebody else has seen running is dialled, before it counts as lost."""
SHORT_AGAIN_S: Final = 1.0
"""How long `dial_running` waits if this process lacks what a connection takes."""
_BACKLOG = 1024


class Listener:
    """The listening sockets of one service."""

    def __init__(self, service: Service, key: Key, generation: str, name: str) -> None:
        self._service = service
        self._key = key
        self._identity = identity(generation, name)
        self._name = name
        self._servers: list[asyncio.Server] = []
        self._unix = ""
        self._claim: Claim | None = None
        self.connections: set[ReplicaConnection] = set()

    async def listen(self, directory: Path, tcp_host: str | None = None, tcp_port: int = 0) -> ReplicaAddress:
        """Listen in *directory*, and on *tcp_host* if given, at *tcp_port* if that is free there; return where.

        Raises:
            OSError: The path is too long, its directory open to others, or the address cannot be bound.
        """
        loop = asyncio.get_running_loop()
        unix = str(directory / f"{self._name}.sock")
        self._claim = Claim(directory)
        sock = bind_unix(unix)
        self._unix = unix
        self._servers.append(await loop.create_unix_server(self._connection, sock=sock, backlog=_BACKLOG))
        tcp = None
        if tcp_host is not None:
            try:
                server = await self._listen_on(tcp_host, tcp_port)
            except BaseException:
                self.stop_accepting()
                raise
            self._servers.append(server)
            tcp = (tcp_host, server.sockets[0].getsockname()[1])
        return ReplicaAddress(self._name, self._unix, tcp)

    async def _listen_on(self, host: str, port: int) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        try:
            return await loop.create_server(self._connection, host, port, backlog=_BACKLOG)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not port:
                raise
        return await loop.create_server(self._connection, host, 0, backlog=_BACKLOG)

    def stop_accepting(self) -> None:
        """Take no further connection and no further stream; what was accepted goes on."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self._unix:
            Path(self._unix).unlink(missing_ok=True)
            self._unix = ""

    def go_away(self) -> None:
        """Tell every caller that no further stream will be accepted; each closes when its last one ends."""
        for connection in list(self.connections):
            connection.go_away()

    def close(self) -> None:
        """Close everything at once."""
        self.stop_accepting()
        for connection in list(self.connections):
            connection.close()
        if self._claim is not None:
            self._claim.release()

    def _connection(self) -> ReplicaConnection:
        return ReplicaConnection(self._key, self._identity, self._service, self.connections)


class NobodyListens(Lost):
    """There is no socket at the address, or no process behind it."""


async def dial(address: ReplicaAddress, key: Key, generation: str, role: Role) -> CallerConnection:
    """Connect to *address* and prove each other.

    Raises:
        Lost: No process answers there; nothing was sent. It is `NobodyListens` if that is why, and `Shortage` if this
            process lacks what a connection takes.
        AuthenticationError: Somebody else answers there.
    """
    try:
        return await _dial_any(address, key, generation, role)
    except Shortage:
        if not give_back():
            raise
    return await _dial_any(address, key, generation, role)


async def _dial_any(address: ReplicaAddress, key: Key, generation: str, role: Role) -> CallerConnection:
    places = places_of(address)
    for place in places[:-1]:
        with contextlib.suppress(NobodyListens, AuthenticationError):
            return await _dial(address.replica, place, key, generation, role)
    return await _dial(address.replica, places[-1], key, generation, role)


def places_of(address: ReplicaAddress) -> list[str | tuple[str, int]]:
    """Return where to dial *address*, best first: its unix socket if one lies there, and TCP.

    A socket that lies there may be what a process has left that was killed, or be another host's of the same path. Then
    no process listens there, or another one does, and the next place counts.

    Raises:
        NobodyListens: Neither is there.
    """
    found: list[str | tuple[str, int]] = [address.unix] if os.path.exists(address.unix) else []
    if address.tcp is not None:
        found.append(address.tcp)
    if not found:
        raise NobodyListens("no", f"{address.replica} has no socket any more")
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
            raise (NobodyListens if gone else Lost)("no", why) from error
        raise
    return connection


async def dial_running(address: ReplicaAddress, key: Key, generation: str, role: Role) -> CallerConnection:
    """Do as `dial` does, for a process that has run until now: while it listens, it is only slow to answer.

    One handshake has a second, so that strangers hold no connection; a machine that has stood still takes longer.
    """
    for _ in range(TRIES - 1):
        try:
            return await dial(address, key, generation, role)
        except NobodyListens:
            raise
        except Shortage:
            await asyncio.sleep(SHORT_AGAIN_S)
        except Lost:
            pass
    return await dial(address, key, generation, role)


def bind_unix(path: str) -> socket.socket:
    """Return a socket bound to *path*, 0600, in a directory made 0700.

    Raises:
        OSError: The path is too long, or its directory is open to others.
    """
    if len(os.fsencode(path)) > MAX_UNIX_PATH:
        raise OSError(
            f"socket path of {len(os.fsencode(path))} bytes, the limit is {MAX_UNIX_PATH}: {path}; "
            "set XDG_RUNTIME_DIR to a shorter directory"
        )
    private_directory(Path(path).parent)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.setblocking(False)
    # The generation is in the directory's name: what lies there is a dead predecessor's of the same instance.
    Path(path).unlink(missing_ok=True)
    try:
        sock.bind(path)
        os.chmod(path, 0o600)
    except OSError:
        sock.close()
        raise
    return sock


def check_socket(path: str) -> None:
    """Refuse a socket that could be somebody else's.

    Raises:
        AuthenticationError: *path* is a link, no socket, or another user's; the message has path and cure.
    """
    found = os.lstat(path)
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise AuthenticationError(f"{path} is no socket of this user; remove it")
