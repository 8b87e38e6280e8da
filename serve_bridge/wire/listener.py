"""The listening sockets of a process on the data plane.

Rule 1: a unix socket has mode 0600 in a directory of mode 0700 that belongs to this user.
Rule 2: TCP listens on one explicit address, and only where other nodes must reach the process.
Rule 3: if the unix socket or its directory vanishes, the process that listens makes it again at the same path. Open
    connections stay open.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from serve_bridge.config.addresses import joined
from serve_bridge.config.tls import Tls
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.directory_lock import Claim
from serve_bridge.wire.file_keeper import FileKeeper
from serve_bridge.wire.handshake import HANDSHAKE_TIMEOUT_S, identity
from serve_bridge.wire.keys import Key
from serve_bridge.wire.replica_end import ReplicaConnection, Service
from serve_bridge.wire.socket_files import bind_unix, remove_dead_sockets, socket_file
from serve_bridge.wire.tls import context_of

_BACKLOG = 1024
"""Upper limit for connections that wait to be accepted, for each socket."""

LOOK_S: Final = 0.01
"""Seconds between two looks at the unfinished handshakes of a listener that leaves."""

_logger = logging.getLogger("serve_bridge.wire")


class CannotListen(OSError):
    """This process cannot listen on its address over TCP."""

    def __str__(self) -> str:  # without the number
        return str(self.strerror)


class NoFreePort(CannotListen):
    """Other processes have all ports on which this process may listen."""


def _no_listener(host: str, port: int, error: OSError) -> str:
    number = error.errno
    reason = os.strerror(number).lower() if number is not None and number > 0 else error.strerror or str(error)
    return f"cannot listen on {joined(host, port)}: {reason}; give another address with listen= (--listen)"


def _no_free_port(host: str, ports: Sequence[int]) -> str:
    if len(ports) == 1:
        return f"cannot listen on {joined(host, ports[0])}: another process has this port; use another one"
    return (
        f"no port of the range {ports[0]}-{ports[-1]} is free on {host}: it has {len(ports)} ports, and at least "
        f"{len(ports) + 1} processes need one; use a larger range"
    )


class Listener:
    """The listening sockets of one service, and the connections that callers have opened.

    Attributes:
        connections: The open connections.
    """

    def __init__(self, service: Service, key: Key, generation: str, name: str, *, alias: bytes = b"") -> None:
        """Listen for *service* under *name*, and under *alias*, an identity of its own."""
        self._service = service
        self._key = key
        self._identity = identity(generation, name)
        self._alias = alias
        self._name = name
        self._servers: list[asyncio.Server] = []
        self._unix = ""
        self._unix_server: asyncio.Server | None = None
        self._claim: Claim | None = None
        self._keeper: FileKeeper | None = None
        self._has_left = False
        self.connections: dict[ReplicaConnection, None] = {}  # in order, so that equal runs are equal

    async def listen(
        self, directory: Path, tcp_host: str | None = None, tcp_ports: Sequence[int] = (0,), advertised: str = ""
    ) -> SocketAddress:
        """Listen on a unix socket in *directory*, and on TCP if *tcp_host* is given; return the address.

        Args:
            directory: Directory of the unix socket. It is made if it does not exist.
            tcp_host: Address for TCP.
            tcp_ports: Ports for TCP; the first free one is used. 0: any free port.
            advertised: Host under which other hosts reach *tcp_host*; "": *tcp_host* itself.

        Raises:
            OSError: The path is too long, other users can open the directory, or the TCP address cannot be bound. It
                is a `NoFreePort` if another process has each of *tcp_ports*.
            ConfigError: The files for TLS cannot be used.
        """
        try:
            tcp = await self._listen(directory, tcp_host, tcp_ports)
        except BaseException:  # also a cancellation, since the process ends while it starts
            self.close()
            raise
        return SocketAddress(self._name, self._unix, tcp and (advertised or tcp[0], tcp[1]))

    async def _listen(self, directory: Path, tcp_host: str | None, tcp_ports: Sequence[int]) -> tuple[str, int] | None:
        self._claim = Claim(directory)
        remove_dead_sockets(directory)
        self._unix = str(socket_file(directory, self._name))
        self._unix_server = await self._listen_on_unix(self._unix)
        self._keeper = FileKeeper(f"the socket {self._unix}", _logger, self._has_vanished, self._make_again)
        self._keeper.begin()
        if tcp_host is None:
            return None
        if self._key.tls is not None:
            context_of(self._key.tls, listens=True)  # a fault in a file is an error now, not at a connection
        server = await self._listen_on(tcp_host, tcp_ports)
        self._servers.append(server)
        return tcp_host, server.sockets[0].getsockname()[1]

    async def _listen_on_unix(self, path: str) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        sock = bind_unix(path)
        server = await loop.create_unix_server(self._connection, sock=sock, backlog=_BACKLOG, start_serving=False)
        try:
            await server.start_serving()
        except BaseException:  # the process ends while it makes the socket again
            server.close()
            raise
        return server

    def _has_vanished(self) -> bool:
        return not os.path.lexists(self._unix) or self._claim is None or not self._claim.is_held

    async def _make_again(self) -> None:
        """Claim the directory again, and listen again if the socket is missing."""
        claim, before = Claim(Path(self._unix).parent), self._claim
        self._claim = claim
        if before is not None:
            before.release()
        if self._has_vanished():
            server, self._unix_server = self._unix_server, await self._listen_on_unix(self._unix)
            if server is not None:
                server.close()

    def stop_keeping(self) -> None:
        """Let the files vanish from now on, because the instance ends."""
        if self._keeper is not None:
            self._keeper.close()

    async def _listen_on(self, host: str, ports: Sequence[int]) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        for port in ports:
            try:
                server = await loop.create_server(self._tcp_connection, host, port, backlog=_BACKLOG)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise CannotListen(error.errno, _no_listener(host, port, error)) from error
            else:
                if all(server.sockets):
                    return server
                server.close()  # uvloop raises nothing if another process takes the port between bind and listen
        raise NoFreePort(errno.EADDRINUSE, _no_free_port(host, ports))

    def stop_accepting(self) -> None:
        """Refuse new connections and remove the unix socket. Open connections stay open."""
        self.stop_keeping()
        for server in (*self._servers, self._unix_server):
            if server is not None:
                server.close()
        self._servers.clear()
        self._unix_server = None
        if self._unix:
            Path(self._unix).unlink(missing_ok=True)
            self._unix = ""

    def go_away(self) -> None:
        """Tell every caller to open no more streams. Each connection closes when its last stream ends."""
        for connection in list(self.connections):
            connection.go_away()

    async def leave(self) -> None:
        """Refuse new connections, and prove to each caller which of its requests have not started.

        A caller sends no request before it has the hello and the proof of this end. A connection without them closes.
        On the others, this end sends GOAWAY. Then each caller of an unfinished handshake closes its connection, or the
        handshake times out. If this process ends now, each caller still reads GOAWAY before the end.
        """
        self._has_left = True
        self.stop_accepting()
        await asyncio.sleep(0)  # asyncio makes the connections of sockets that it has accepted
        for connection in list(self.connections):
            connection.leave()
        ends = time.monotonic() + HANDSHAKE_TIMEOUT_S + LOOK_S  # a connection that was never made has no timeout
        while time.monotonic() < ends:
            if not any(connection.is_in_handshake for connection in self.connections):
                break
            await asyncio.sleep(LOOK_S)

    def end_stale(self, grace_s: float = 0.0) -> None:
        """Close each connection whose key was retired. It may finish its streams within *grace_s* seconds."""
        for connection in [each for each in self.connections if self._key.with_id(each.key_id) is None]:
            if grace_s:
                connection.go_away()
                asyncio.get_running_loop().call_later(grace_s, connection.close)
            else:
                connection.close()

    def close(self) -> None:
        """Close all sockets and connections at once."""
        self.stop_accepting()
        for connection in list(self.connections):
            connection.close()
        if self._claim is not None:
            self._claim.release()

    def _connection(self, tls: Tls | None = None) -> ReplicaConnection:
        made = ReplicaConnection(self._key, self._identity, self._service, self.connections, alias=self._alias, tls=tls)
        if self._has_left:
            made.go_away()
        return made

    def _tcp_connection(self) -> ReplicaConnection:
        return self._connection(self._key.tls)
