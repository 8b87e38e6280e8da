"""The listening sockets of a process on the data plane.

Rule 1: a unix socket has mode 0600 in a directory of mode 0700 that belongs to this user.
Rule 2: TCP listens on one explicit address, and only where other nodes must reach the process.
"""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.directory_lock import Claim
from serve_bridge.wire.handshake import identity
from serve_bridge.wire.keys import Key
from serve_bridge.wire.replica_end import ReplicaConnection, Service
from serve_bridge.wire.socket_files import bind_unix

_BACKLOG = 1024
"""Upper limit for connections that wait to be accepted, for each socket."""


class Listener:
    """The listening sockets of one service, and the connections that callers have opened.

    Attributes:
        connections: The open connections.
    """

    def __init__(self, service: Service, key: Key, generation: str, name: str) -> None:
        self._service = service
        self._key = key
        self._identity = identity(generation, name)
        self._name = name
        self._servers: list[asyncio.Server] = []
        self._unix = ""
        self._claim: Claim | None = None
        self.connections: set[ReplicaConnection] = set()

    async def listen(self, directory: Path, tcp_host: str | None = None, tcp_port: int = 0) -> SocketAddress:
        """Listen on a unix socket in *directory*, and on TCP if *tcp_host* is given; return the address.

        Args:
            directory: Directory of the unix socket. It is made if it does not exist.
            tcp_host: Address for TCP.
            tcp_port: Port for TCP; another free port is used if it is taken. 0: any free port.

        Raises:
            OSError: The path is too long, other users can open the directory, or the TCP address cannot be bound.
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
        return SocketAddress(self._name, self._unix, tcp)

    async def _listen_on(self, host: str, port: int) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        try:
            return await loop.create_server(self._connection, host, port, backlog=_BACKLOG)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not port:
                raise
        return await loop.create_server(self._connection, host, 0, backlog=_BACKLOG)

    def stop_accepting(self) -> None:
        """Refuse new connections and remove the unix socket. Open connections stay open."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self._unix:
            Path(self._unix).unlink(missing_ok=True)
            self._unix = ""

    def go_away(self) -> None:
        """Tell every caller to open no more streams. Each connection closes when its last stream ends."""
        for connection in list(self.connections):
            connection.go_away()

    def close(self) -> None:
        """Close all sockets and connections at once."""
        self.stop_accepting()
        for connection in list(self.connections):
            connection.close()
        if self._claim is not None:
            self._claim.release()

    def _connection(self) -> ReplicaConnection:
        return ReplicaConnection(self._key, self._identity, self._service, self.connections)
