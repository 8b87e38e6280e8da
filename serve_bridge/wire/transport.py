"""The shared part of both ends of a data-plane connection: handshake, reading and closing. `FrameWriter` writes.

Rule 1: only the connection's own event loop touches it.
Rule 2: no frame is read before the handshake ends. The handshake times out after `HANDSHAKE_TIMEOUT_S`.
Rule 3: a read with many short frames takes several loop turns, `TURN_FRAMES` in each. The socket is read again only
    after the last of them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from serve_bridge.config.addresses import joined
from serve_bridge.errors import AuthenticationError, ProtocolError
from serve_bridge.wire.bulk_receiver import BulkReceiver
from serve_bridge.wire.frame_writer import FrameWriter
from serve_bridge.wire.frames import Frame, FrameReader
from serve_bridge.wire.handshake import HANDSHAKE_TIMEOUT_S, Handshake
from serve_bridge.wire.keys import Role
from serve_bridge.wire.open_connections import drop_after_fork
from serve_bridge.wire.peer import acknowledges_nothing, check_socket_peer, discard_at_close
from serve_bridge.wire.seal import Records
from serve_bridge.wire.tls import TlsHandshake

TURN_FRAMES: Final = 64
"""Upper limit for the frames of one read that are handled in one loop turn. As requests they take about 2 ms."""
CLOSE_LINGER_S: Final = 1.0
"""Seconds that a closed connection has to send the remaining bytes."""

_logger = logging.getLogger("serve_bridge.wire")


class FrameTransport(FrameWriter, asyncio.Protocol):
    """An authenticated connection for frames.

    Attributes:
        closed: Whether the connection has ended.
        ended_by: The error that ended the connection; None if it is open or ended without an error.
        last_heard: Loop time at which the peer last sent any bytes.
        is_of_this_process: Whether the peer is this process. Always False on systems other than Linux.
        version: Version of the protocol, after the handshake.
        key_id: Id of the secret from which the caller's key derives, after the handshake.
    """

    def __init__(self, handshake: Handshake | TlsHandshake, reader: FrameReader) -> None:
        super().__init__()
        self._reader = reader
        self._bulk: BulkReceiver | None = None
        self._handshake: Handshake | TlsHandshake | None = handshake
        self._deadline: asyncio.TimerHandle | None = None
        self._seal_in: Records | None = None
        self._reads = True
        self._held: Iterator[Frame] | None = None
        self.closed: bool = False
        self.ended_by: BaseException | None = None
        self.last_heard: float = self._loop.time()
        self.is_of_this_process: bool = False
        self.version: int = 0
        self.key_id: bytes = b""

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Check the user of the peer, and begin the handshake."""
        self._transport = transport
        # Write at once. By default uvloop collects writes until the loop turn ends, but `send` collects them already.
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
        """Handle the peer's bytes. If they break the protocol, the connection closes."""
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
        """Close both directions. Half a connection is useless to both ends."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the requests in flight."""
        self.close(exc or EOFError("the peer closed the connection"))

    # for the two ends

    def frames_received(self, frames: Iterable[Frame]) -> None:
        """Handle *frames* of an authenticated peer.

        Raises:
            ProtocolError: The peer broke the protocol.
        """
        raise NotImplementedError  # abstract

    def greeted(self, handshake: Handshake | TlsHandshake) -> None:
        """React to a part of *handshake* that is not the last one."""

    def authenticated(self, role: Role) -> None:
        """Note that the peer has proved its *role*."""
        raise NotImplementedError  # abstract

    def closing(self, error: BaseException | None) -> None:
        """Fail the requests in flight, because the connection has just ended; *error* is the cause, if any."""
        raise NotImplementedError  # abstract

    def is_sealed(self) -> bool:
        """Return whether each record has a MAC: over TCP."""
        return bool(self._transport.get_extra_info("socket").family != socket.AF_UNIX)

    def fileno(self) -> int:
        """Return the socket's file descriptor."""
        return int(self._transport.get_extra_info("socket").fileno())

    def is_host_silent(self, for_s: float) -> bool:
        """Return whether data was sent and the peer's host has acknowledged nothing for *for_s* seconds."""
        return not self.closed and acknowledges_nothing(self._transport.get_extra_info("socket"), for_s)

    def can_receive(self) -> bool:
        """Return whether `data_received` may be called: no frames of an earlier read wait."""
        return self._reads and self._bulk is None and not self._reader.amid

    def stop_reading(self) -> None:
        """Stop reading from the socket until `read_on`."""
        if self._reads and not self._transport.is_closing():
            self._reads = False
            self._transport.pause_reading()

    def read_on(self) -> None:
        """Handle the frames that were read before `stop_reading`, and read from the socket again."""
        if self._reads:
            return
        self._reads = True
        frames, self._held = self._held, None
        if frames is not None:
            self._loop.call_soon(self._receive_more, frames)
        else:
            self._resume_reading()

    def receive_in_bulk(self) -> None:
        """Read payloads straight into their buffers, as long as they have one (see `FrameReader`)."""
        if self._bulk is None and self._seal_in is None:
            self._bulk = BulkReceiver(self, self._reader)
            self._read_as(self._bulk)

    def bulk_received(self, data: bytes) -> None:
        """Handle *data*, and the payload that was read into its buffer."""
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
        """Handle the next of *frames*. If more are left, a later loop turn handles them before the next read."""
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
            self._transport.pause_reading()  # uvloop uses the new protocol only from the next start of reading
            self._transport.set_protocol(protocol)
            if self._reads:
                self._transport.resume_reading()

    def close(self, error: BaseException | None = None) -> None:
        """Close at once. The requests in flight fail. A second call does nothing."""
        if self.closed:
            return
        self.closed, self.ended_by = True, error
        if error is None:
            self._flush()
        self._out.clear()
        if self._deadline is not None:
            self._deadline.cancel()
        self.resume_writing()
        if self._transport is not None:
            self._end_transport(error)
        self.closing(error)

    def cut_off(self, error: BaseException) -> None:
        """Close at once because of *error*. The bytes that the peer's host has not acknowledged never arrive."""
        if not self.closed:
            discard_at_close(self._transport.get_extra_info("socket"))
        self.close(error)

    def close_threadsafe(self) -> None:
        """Close soon. Any thread may call this."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.close)

    def drop(self) -> None:
        """Close this process's copy of the socket without sending anything. A forked child calls this."""
        if not self.closed:
            self.closed = True
            os.close(self.fileno())

    def _end_transport(self, error: BaseException | None) -> None:
        if isinstance(error, ProtocolError | AuthenticationError | TimeoutError):
            _logger.warning("closed a connection%s: %s", self._far_end(), error)
        if error is not None:
            self._transport.abort()
            return
        self._transport.close()
        if self._transport.get_write_buffer_size():  # a peer that does not read must not keep the socket open
            self._loop.call_later(CLOSE_LINGER_S, self._transport.abort)

    def _far_end(self) -> str:
        """Return the address of a TCP peer for a log line."""
        place = self._transport.get_extra_info("peername")
        return f" with {joined(*place[:2])}" if isinstance(place, tuple) and len(place) >= 2 else ""

    def _greet(self, handshake: Handshake | TlsHandshake, data: bytes) -> bytes:
        """Give *data* to the handshake. Return the bytes after it, which belong to frames."""
        try:
            self._write(handshake.feed(data))
        except AuthenticationError:
            self._write(handshake.last_words)
            raise
        if not handshake.done:
            self.greeted(handshake)
            return b""
        self._handshake = None
        if self._deadline is not None:
            self._deadline.cancel()
        if self.is_sealed():
            out, self._seal_in = handshake.seals()
            self._seal_out = self._seal_out or out
        self.key_id, self.version = handshake.key_id, handshake.version
        self.authenticated(handshake.peer_role)
        return handshake.rest

    def _too_slow(self) -> None:
        self.close(TimeoutError(f"no valid handshake within {HANDSHAKE_TIMEOUT_S} s"))
