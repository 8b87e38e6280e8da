"""What both ends of a data-plane connection share: handshake, seal, coalesced writes, back-pressure.

Rule 1: all of a connection is touched from its own loop only.
Rule 2: frames of one loop turn leave together, `FLUSH_FRAMES` at a time; none waits for longer than its turn.
Rule 3: nothing is read before the handshake is done, and it has a second.
Rule 4: a read of many short frames takes several loop turns, `TURN_FRAMES` each; until then nothing more is read.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

from serve_bridge.errors import AuthenticationError, ProtocolError
from serve_bridge.wire.bulk_receiver import BulkReceiver
from serve_bridge.wire.frames import Frame, FrameReader
from serve_bridge.wire.handshake import HANDSHAKE_TIMEOUT_S, Handshake
from serve_bridge.wire.keys import Role
from serve_bridge.wire.open_connections import drop_after_fork
from serve_bridge.wire.peer import acknowledges_nothing, check_socket_peer
from serve_bridge.wire.seal import Seal

FLUSH_FRAMES: Final = 8
"""So many frames of one loop turn leave at once: the peer works on them while the next are made."""
FLUSH_PIECES: Final = 32
"""So many, where they are pieces of streams: these are soon made, and a write costs as much as ten of them."""
TURN_FRAMES: Final = 64
"""Upper limit for the frames of one read that are handled in one loop turn. As requests they take about 2 ms."""
UNCOPIED_BYTES: Final = 16 * 1024
"""Pieces of a body from this size on leave as they are; to copy a shorter one costs less than to hand it over."""
MOST_UNREAD_BYTES: Final = 64 << 20
"""Upper limit for bytes that a connection keeps for a peer that does not read them; above it the connection closes."""
CLOSE_LINGER_S: Final = 1.0
"""How long a closed connection may take to send what was written before."""

_logger = logging.getLogger("serve_bridge.wire")


class FrameTransport(asyncio.Protocol):
    """An authenticated connection that carries frames.

    Attributes:
        closed: Whether it has ended.
        ended_by: The error that has ended it; None: there was none, or it goes on.
        writes: How often anything was written.
        written: How many bytes that was.
        paused: Done once the socket takes more again; None: it does.
        last_heard: Loop time at which the peer last sent anything.
        is_of_this_process: Whether the peer is this process, as far as the system can tell (Linux).
    """

    def __init__(self, handshake: Handshake, reader: FrameReader) -> None:
        self._reader = reader
        self._bulk: BulkReceiver | None = None
        self._loop = asyncio.get_running_loop()
        self._handshake: Handshake | None = handshake
        self._deadline: asyncio.TimerHandle | None = None
        self._transport: Any = None  # uvloop's transports are no subclass of asyncio.Transport
        self._seal_out: Seal | None = None
        self._seal_in: Seal | None = None
        self._out: list[bytes] = []
        self._turn_ends = False
        self.writes = self.written = 0
        self._reads = True
        self._held: Iterator[Frame] | None = None
        self.paused: asyncio.Future[None] | None = None
        self.closed = False
        self.ended_by: BaseException | None = None
        self.last_heard = self._loop.time()
        self.is_of_this_process = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Check who the peer is, and begin the handshake."""
        self._transport = transport
        # What is written goes out now. uvloop would hold it back until the turn ends, for which `send` knows better.
        transport.set_write_buffer_limits(high=0)  # type: ignore[attr-defined]  # every stream transport has it
        drop_after_fork(self)
        assert self._handshake is not None
        try:
            self.is_of_this_process = check_socket_peer(transport.get_extra_info("socket")) == os.getpid()
        except AuthenticationError as error:
            self.close(error)
            return
        self._deadline = self._loop.call_later(HANDSHAKE_TIMEOUT_S, self._too_slow)
        self._write(self._handshake.start())

    def data_received(self, data: bytes) -> None:
        """Read what the peer sent; one that breaks the protocol is cut off."""
        self.last_heard = self._loop.time()
        try:
            if self._handshake is not None:
                data = self._greet(self._handshake, data)
            if self._seal_in is not None:
                data = self._seal_in.open(data)
            if data and not self.closed:
                self._receive(self._reader.feed(data))
        except (ProtocolError, AuthenticationError) as error:
            self.close(error)

    def eof_received(self) -> None:
        """Close both directions: neither end is of use without the other."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is in flight."""
        self.close(exc or EOFError("the peer closed the connection"))

    def pause_writing(self) -> None:
        """Let who sends bodies wait."""
        if self.paused is None:
            self.paused = self._loop.create_future()

    def resume_writing(self) -> None:
        """Let them go on."""
        if self.paused is not None:
            self.paused.set_result(None)
            self.paused = None

    # for the two ends

    def frames_received(self, frames: Iterable[Frame]) -> None:
        """Handle *frames* of an authenticated peer.

        Raises:
            ProtocolError: The peer broke the protocol.
        """
        raise NotImplementedError  # abstract

    def authenticated(self, role: Role) -> None:
        """The peer has proved itself."""
        raise NotImplementedError  # abstract

    def closing(self, error: BaseException | None) -> None:
        """The connection has just ended, because of *error* if any."""
        raise NotImplementedError  # abstract

    def fileno(self) -> int:
        """Return the socket's file descriptor."""
        return int(self._transport.get_extra_info("socket").fileno())

    def is_host_silent(self, for_s: float) -> bool:
        """Whether something was sent, and the peer's host has acknowledged nothing for *for_s* seconds."""
        return not self.closed and acknowledges_nothing(self._transport.get_extra_info("socket"), for_s)

    def is_quiet(self) -> bool:
        """Whether there is one request on this connection at most, so that no other frame is to be expected."""
        raise NotImplementedError  # abstract

    # writing

    def send(self, frame: bytes, together: int = FLUSH_FRAMES) -> None:
        """Send *frame* with the others of this loop turn, *together* at most; at once if nothing else goes on here."""
        out = self._out
        if not self._turn_ends:
            if self._seal_out is None and self.is_quiet():
                self._write(frame)
                return
            self._turn_ends = True
            self._loop.call_soon(self._end_turn)
        out.append(frame)
        if len(out) >= together:
            self._flush()

    def send_piece(self, header: bytes, piece: bytes | memoryview) -> None:
        """Send a DATA frame. *piece* may change only once it was `writable` again."""
        if len(piece) < UNCOPIED_BYTES or self._seal_out is not None:
            self.send(header + piece)
            return
        self._flush()
        if not self._transport.is_closing():
            self.writes += 1
            self.written += len(header) + len(piece)
            self._transport.writelines((header, piece))

    def backed_up(self, unread: int) -> None:
        """The peer has *unread* bytes to read, more than the socket takes."""

    def unread(self) -> int:
        """Return how many bytes wait for the peer to read, beside those in the socket."""
        return int(self._transport.get_write_buffer_size())

    # reading

    def stop_reading(self) -> None:
        """Leave what the peer sends in its socket, until `read_on`."""
        if self._reads and not self._transport.is_closing():
            self._reads = False
            self._transport.pause_reading()

    def read_on(self) -> None:
        """Go on with what the peer has sent, and read again."""
        if self._reads:
            return
        self._reads = True
        frames, self._held = self._held, None
        if frames is not None:
            self._loop.call_soon(self._receive_more, frames)
        else:
            self._resume_reading()

    def receive_in_bulk(self) -> None:
        """Read what comes straight to its place, as long as it has one (see `FrameReader`)."""
        if self._bulk is None and self._seal_in is None:
            self._bulk = BulkReceiver(self, self._reader)
            self._read_as(self._bulk)

    def bulk_received(self, data: bytes) -> None:
        """Take in *data*, and what has come to its place."""
        if self.closed:
            return
        self.last_heard = self._loop.time()
        try:
            self._receive(self._reader.feed(data))
        except ProtocolError as error:
            self.close(error)
        if data and self._reader.space is None:
            self._bulk = None
            self._read_as(self)

    def _receive(self, frames: Iterator[Frame]) -> None:
        """Handle the next of *frames*. If more are left, a later turn goes on with them, before anything is read."""
        self.frames_received(islice(frames, TURN_FRAMES))
        if self._reader.amid and not self._transport.is_closing():
            self._transport.pause_reading()
            if self._reads:
                self._loop.call_soon(self._receive_more, frames)
            else:
                self._held = frames

    def _receive_more(self, frames: Iterator[Frame]) -> None:
        if self.closed:
            return
        try:
            self._receive(frames)
        except Exception as error:
            self.close(error)
            if not isinstance(error, ProtocolError):
                raise
        self._resume_reading()

    def _resume_reading(self) -> None:
        if self._reads and not self._reader.amid and not self._transport.is_closing():
            self._transport.resume_reading()

    def _read_as(self, protocol: asyncio.BaseProtocol) -> None:
        if not self._transport.is_closing():
            self._transport.pause_reading()  # uvloop heeds the new protocol when it begins to read
            self._transport.set_protocol(protocol)
            if self._reads:
                self._transport.resume_reading()

    async def writable(self) -> None:
        """Wait until the socket takes more."""
        while self.paused is not None:
            await asyncio.shield(self.paused)

    def close(self, error: BaseException | None = None) -> None:
        """Close at once; what is in flight fails. Twice is once."""
        if self.closed:
            return
        self.closed, self.ended_by = True, error
        if error is None:
            self._flush()
        self._out.clear()  # what was not written never will be
        if self._deadline is not None:
            self._deadline.cancel()
        self.resume_writing()
        if self._transport is not None:
            self._end_transport(error)
        self.closing(error)

    def close_threadsafe(self) -> None:
        """Close soon; from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.close)

    def drop(self) -> None:
        """Close this process's copy of the socket, and send nothing."""
        if not self.closed:
            self.closed = True
            os.close(self.fileno())

    def _end_transport(self, error: BaseException | None) -> None:
        if isinstance(error, ProtocolError | AuthenticationError | TimeoutError):
            _logger.warning("closed a connection: %s", error)
        if error is not None:
            self._transport.abort()
            return
        self._transport.close()
        if self._transport.get_write_buffer_size():  # a peer that reads no more must not hold the socket
            self._loop.call_later(CLOSE_LINGER_S, self._transport.abort)

    def _end_turn(self) -> None:
        self._turn_ends = False
        self._flush()

    def _flush(self) -> None:
        out = self._out
        if not out:
            return
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self._write(data if self._seal_out is None else self._seal_out.close(data))

    def _write(self, data: bytes) -> None:
        if data and self._transport is not None and not self._transport.is_closing():
            self.writes += 1
            self.written += len(data)
            self._transport.write(data)
            if self.paused is not None:
                self._check_unread()

    def _check_unread(self) -> None:
        unread = self.unread()
        if unread > MOST_UNREAD_BYTES:
            self.close(ProtocolError(f"the peer does not read: {unread} bytes wait; the limit is {MOST_UNREAD_BYTES}"))
        else:
            self.backed_up(unread)

    def _greet(self, handshake: Handshake, data: bytes) -> bytes:
        """Feed the handshake; return what already belongs to the frames."""
        try:
            self._write(handshake.feed(data))
        except AuthenticationError:
            self._write(handshake.last_words)
            raise
        if not handshake.done:
            return b""
        self._handshake = None
        if self._deadline is not None:
            self._deadline.cancel()
        if self._transport.get_extra_info("socket").family != socket.AF_UNIX:
            self._seal_out, self._seal_in = handshake.seals()
        self.authenticated(handshake.peer_role)
        return handshake.rest

    def _too_slow(self) -> None:
        self.close(TimeoutError(f"no valid handshake within {HANDSHAKE_TIMEOUT_S} s"))
