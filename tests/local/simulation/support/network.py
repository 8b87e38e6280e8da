"""The network of the simulation: connections that delay, break in the middle of a frame, or fall silent.

Rule 1: bytes of one direction arrive in order, as TCP and unix sockets promise. Those of different connections do not.
Rule 2: when a connection breaks, some of the bytes under way are lost. Both ends learn of it, each at its own time.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import os
import random
import socket
import struct
from collections.abc import Callable
from typing import Any, Final

from tests.local.simulation.support.loop import PROCESS, Process, SimulatedLoop

LONGEST_DELAY_S: Final = 0.04
"""Upper limit for the time that bytes take, in seconds. A replica drains for longer than that."""
LONGEST_SILENCE_S: Final = 3.0
"""Upper limit for the time until both ends know of a broken connection, in seconds."""
_APART_S: Final = 1e-6


class _Socket:
    """The parts of a socket that a connection uses."""

    family = socket.AF_UNIX

    def __init__(self, peer: Process) -> None:
        self._peer = peer

    def setsockopt(self, *_: object) -> None:
        """Do nothing."""

    def fileno(self) -> int:
        """Refuse to be read behind the back of the transport: it delivers all that arrives before the end."""
        raise OSError(errno.EBADF, "this socket has no descriptor")

    def getsockopt(self, *_: object) -> bytes:
        """Return the credentials of the peer."""
        return struct.pack("3i", self._peer.pid, os.geteuid(), os.getegid())


class _End(asyncio.Transport):
    """One end of a connection: what a process writes, and reads."""

    def __init__(self, network: Network, process: Process, peer: Process, protocol: Any) -> None:
        super().__init__({"socket": _Socket(peer)})
        self.process = process
        self.other: _End
        self._network = network
        self._protocol = protocol
        self._unread: list[bytes] | None = None
        self._last_at = 0.0
        self._flying: list[asyncio.TimerHandle] = []
        self._closing = self._lost = self._is_cut = False

    def begin(self) -> None:
        """Tell the protocol that it is connected."""
        if not self._lost:
            self._protocol.connection_made(self)

    # the side of the process

    def write(self, data: Any) -> None:
        """Send *data*."""
        if not (self._closing or self._is_cut):
            self._send(self.other.arrive, bytes(data))

    def writelines(self, pieces: Any) -> None:
        """Send all *pieces*."""
        self.write(b"".join(bytes(piece) for piece in pieces))

    def close(self) -> None:
        """Close; what was written arrives."""
        if not self._closing:
            self._closing = True
            if not self._is_cut:
                self._send(self.other.lose, None)
            self._network.loop.call_soon(self.lose, None)

    def abort(self) -> None:
        """Close."""
        self.close()

    def is_closing(self) -> bool:
        """Return whether this end is closed."""
        return self._closing

    def set_protocol(self, protocol: Any) -> None:
        """Give what arrives to *protocol*."""
        self._protocol = protocol

    def get_write_buffer_size(self) -> int:
        """Return 0: the network takes everything."""
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing."""

    def pause_reading(self) -> None:
        """Keep what arrives."""
        if self._unread is None:
            self._unread = []

    def resume_reading(self) -> None:
        """Give what was kept to the protocol."""
        unread, self._unread = self._unread or [], None
        for data in unread:
            self._network.loop.call_soon(self.arrive, data)

    # the side of the network

    def _send(self, deliver: Callable[..., None], argument: object) -> None:
        loop = self._network.loop
        self._last_at = max(self._last_at + _APART_S, loop.time() + self._network.delay_s())
        self._flying = [handle for handle in self._flying if handle.when() > loop.time() and not handle.cancelled()]
        self._flying.append(loop.call_at(self._last_at, deliver, argument, context=self.other.process.context))

    def arrive(self, data: bytes) -> None:
        """Give *data* to the protocol."""
        if self._closing:
            return
        if self._unread is not None:
            self._unread.append(data)
        else:
            self._protocol.data_received(data)

    def lose(self, error: Exception | None) -> None:
        """Tell the protocol that the connection has ended."""
        if not self._lost:
            self._lost = self._closing = True
            self._protocol.connection_lost(error)

    def drop_flying(self) -> None:
        """Lose what is under way from here, but for a beginning. The bytes of a dead process arrive."""
        self._is_cut = True
        if self.process.is_dead:
            return
        loop, chance = self._network.loop, self._network.chance
        flying = [handle for handle in self._flying if handle.when() > loop.time() and not handle.cancelled()]
        kept = chance.randrange(len(flying) + 1)
        for number, handle in enumerate(flying[kept:]):
            _, deliver, (argument,) = handle._args  # type: ignore[attr-defined]  # the loop's own `_step`
            handle.cancel()
            if number == 0 and isinstance(argument, bytes) and chance.random() < 0.5:
                part = argument[: chance.randrange(len(argument))]
                if part:
                    loop.call_at(handle.when(), deliver, part, context=self.other.process.context)


class Network:
    """All connections.

    Attributes:
        loop: The loop of the simulation.
        chance: Where its delays and losses come from.
        connections: The connections so far, as pairs of ends.
        is_calm: Whether bytes arrive at once.
        unnoticed: Number of ends that do not know yet that their connection is broken.
    """

    def __init__(self, loop: SimulatedLoop, chance: random.Random) -> None:
        self.loop = loop
        self.chance = chance
        self.connections: list[tuple[_End, _End]] = []
        self.is_calm = False
        self.unnoticed = 0
        self._sockets: list[socket.socket] = []
        self._outside = contextvars.copy_context()
        self._listening: dict[str, tuple[Process, Callable[[], Any]]] = {}
        loop.create_unix_server = self._listen  # type: ignore[method-assign, assignment]
        loop.create_unix_connection = self._connect  # type: ignore[method-assign, assignment]

    def delay_s(self) -> float:
        """Return how long the next bytes take, in seconds."""
        if self.is_calm or self.chance.random() < 0.8:
            return self.chance.random() * 0.001
        return self.chance.random() * LONGEST_DELAY_S

    async def _listen(self, factory: Callable[[], Any], *, sock: socket.socket, **options: Any) -> _Server:
        process = PROCESS.get()
        assert process is not None
        path = sock.getsockname()
        self._sockets.append(sock)
        self._listening[path] = process, factory
        return _Server(self, path, sock)

    def close(self) -> None:
        """Close the sockets that gave the paths their names."""
        for sock in self._sockets:
            sock.close()

    def forget(self, path: str) -> None:
        """Refuse connections to *path* from now on."""
        self._listening.pop(path, None)

    async def _connect(self, factory: Callable[[], Any], path: str) -> tuple[_End, Any]:
        caller = PROCESS.get()
        assert caller is not None
        await asyncio.sleep(self.delay_s())
        found = self._listening.get(path)
        if found is None or found[0].is_dead:
            raise ConnectionRefusedError(f"no process listens at {path}")
        listener, accept = found
        here, there = _End(self, caller, listener, factory()), _End(self, listener, caller, None)
        here.other, there.other = there, here
        self.connections.append((here, there))
        here.begin()

        def accepted() -> None:
            if not listener.is_dead:
                there.set_protocol(accept())
                there.begin()

        # Before the first bytes, which are later by at least `_APART_S`.
        self.loop.call_soon(accepted, context=listener.context)
        return here, here._protocol

    def cut(self, ends: tuple[_End, _End], *, silent: bool) -> None:
        """Break a connection. If it is *silent*, both ends learn of it late."""
        for end in ends:
            end.drop_flying()
        self.unnoticed += len(ends)
        for end in ends:
            late_s = self.chance.random() * (LONGEST_SILENCE_S if silent else 0.01) + LONGEST_DELAY_S * silent
            self.loop.call_at(
                max(self.loop.time() + late_s, end.other._last_at + _APART_S),
                self._notify,
                end,
                context=self._outside.copy(),
            )

    def _notify(self, end: _End) -> None:
        self.unnoticed -= 1
        self.loop.call_soon(end.lose, ConnectionResetError("reset by the network"), context=end.process.context)

    def cut_all_of(self, process: Process) -> None:
        """Break the connections of *process*, which has died."""
        for ends in self.open():
            if process in (ends[0].process, ends[1].process):
                self.cut(ends, silent=False)
        self._listening = {path: found for path, found in self._listening.items() if found[0] is not process}

    def open(self) -> list[tuple[_End, _End]]:
        """Return the connections that have not ended."""
        self.connections = [ends for ends in self.connections if not any(end._closing or end._is_cut for end in ends)]
        return self.connections


class _Server:
    """A listening socket."""

    def __init__(self, network: Network, path: str, sock: socket.socket) -> None:
        self._network = network
        self._path = path
        self.sockets = [sock]

    async def start_serving(self) -> None:
        """Do nothing: a socket listens at once."""

    def close(self) -> None:
        """Stop to listen."""
        self._network.forget(self._path)
        self.sockets[0].close()
