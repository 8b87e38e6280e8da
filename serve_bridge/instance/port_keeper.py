"""The listening port of the proxies of one node, which stays open while no proxy runs.

Rule 1: a proxy binds the port, and gives a copy of its listening socket to the keeper of its node. Every later proxy of
    the node takes a copy from the keeper. All copies share one queue of connections in the kernel.
Rule 2: the keeper never accepts a connection. Without a proxy, connections wait in the queue for the next one.
Rule 3: the copies travel over a unix socket (SCM_RIGHTS). Both ends refuse a peer of another user.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from pathlib import Path
from typing import Final

from serve_bridge.errors import AuthenticationError
from serve_bridge.instance.copied_listener import copied_listener
from serve_bridge.wire.peer import check_peer_uid
from serve_bridge.wire.socket_files import bind_unix, check_socket

ANSWER_S: Final = 5.0
"""Upper limit for an answer of the keeper, in seconds."""
_BACKLOG: Final = 64
"""Upper limit for the proxies that wait for the keeper to accept them."""
_TAKE, _GIVE = b"t", b"g"
"""The requests to a keeper: for a copy of the listening socket, and with one."""
_HELD, _EMPTY = b"h", b"e"
"""The answers of a keeper: it holds a listening socket, or none."""
_DESCRIPTOR: Final = struct.Struct("i")
_CLOSE_ON_EXEC: Final = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def socket_path(directory: Path, node: str) -> Path:
    """Return the path of the unix socket of the keeper of *node*, in the *directory* of its instance."""
    return directory / f"port-{node[:8]}.sock"  # a short path, because the kernel limits its length


class PortKeeper:
    """Holds a copy of one listening socket, on the event loop of `open`.

    Args:
        path: Path of the unix socket over which proxies give and take copies.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listener: socket.socket | None = None
        self._peers: set[socket.socket] = set()
        self._held: socket.socket | None = None

    def open(self) -> bool:
        """Serve the proxies of this node. Return whether this keeper holds the listening socket.

        A second call makes the file of the unix socket again if it has disappeared.

        Raises:
            OSError: The unix socket cannot be bound.
        """
        if self._listener is None or not _is_at(self._listener, self._path):
            self._stop_serving()
            listener = bind_unix(str(self._path))
            listener.listen(_BACKLOG)
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)
            self._listener = listener
        return self._held is not None

    async def copy(self, port: int, title: str) -> bool:
        """Copy the listening socket of a process that cannot give one; see `copied_listener`.

        Return whether this keeper holds a listening socket now.
        """
        if self._held is None:
            found = await asyncio.to_thread(copied_listener, port, title)
            if found is not None and self._held is None:
                self._held, found = found, None
            if found is not None:
                found.close()
        return self._held is not None

    def release(self) -> None:
        """Close this copy of the listening socket. The port closes when the last copy is closed."""
        held, self._held = self._held, None
        if held is not None:
            held.close()

    def close(self) -> None:
        """Close all sockets."""
        self.release()
        self._stop_serving()
        self._path.unlink(missing_ok=True)

    def _stop_serving(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        for peer in list(self._peers):
            self._end(peer)

    def _accept(self, listener: socket.socket) -> None:
        try:
            peer, _ = listener.accept()
        except OSError:  # the proxy has left, or this process lacks file descriptors for the moment
            return
        try:
            check_peer_uid(peer)
        except (AuthenticationError, OSError):
            peer.close()
            return
        peer.setblocking(False)
        self._peers.add(peer)
        asyncio.get_running_loop().add_reader(peer, self._answer, peer)

    def _answer(self, peer: socket.socket) -> None:
        try:
            request, given = _received(peer)
            if request == _GIVE and given is not None and self._held is None:
                self._held, given = given, None
            if given is not None:
                given.close()
            if request == _TAKE and self._held is not None:
                socket.send_fds(peer, [_HELD], [self._held.fileno()])
            elif request:
                peer.send(_EMPTY if self._held is None else _HELD)
        except BlockingIOError:
            return
        except OSError:  # the proxy has left
            pass
        self._end(peer)

    def _end(self, peer: socket.socket) -> None:
        self._peers.discard(peer)
        asyncio.get_running_loop().remove_reader(peer)
        peer.close()


def take(path: Path) -> socket.socket | None:
    """Return a copy of the listening socket of the keeper at *path*; None if it holds none.

    Raises:
        OSError: No keeper answers at *path*.
        AuthenticationError: The socket at *path*, or its process, belongs to another user.
    """
    with _connected(path) as keeper:
        keeper.sendall(_TAKE)
        _, taken = _received(keeper)
    if taken is not None:
        taken.setblocking(False)
    return taken


def give(path: Path, listener: socket.socket) -> bool:
    """Give a copy of *listener* to the keeper at *path*, which drops it if it holds one already.

    Return whether the keeper holds a listening socket now.

    Raises:
        OSError: No keeper answers at *path*, or *listener* is closed.
        AuthenticationError: The socket at *path*, or its process, belongs to another user.
    """
    with _connected(path) as keeper:
        socket.send_fds(keeper, [_GIVE], [listener.fileno()])
        return keeper.recv(1) == _HELD


def _connected(path: Path) -> socket.socket:
    check_socket(str(path))
    keeper = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        keeper.settimeout(ANSWER_S)
        keeper.connect(str(path))
        check_peer_uid(keeper)
    except BaseException:
        keeper.close()
        raise
    return keeper


def _received(peer: socket.socket) -> tuple[bytes, socket.socket | None]:
    """Return a message of *peer*, and the socket that came with it. A child process does not inherit this socket."""
    # Not `socket.recv_fds`, which ignores flags.
    message, extras, _, _ = peer.recvmsg(1, socket.CMSG_LEN(_DESCRIPTOR.size), _CLOSE_ON_EXEC)
    for level, kind, data in extras:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            return message, socket.socket(fileno=_DESCRIPTOR.unpack(data)[0])
    return message, None


def _is_at(listener: socket.socket, path: Path) -> bool:
    """Return whether the file at *path* is the unix socket *listener*."""
    try:
        return listener.getsockname() == str(path) and os.path.exists(path)
    except OSError:
        return False
