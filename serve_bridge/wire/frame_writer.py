"""The writing half of a data-plane connection: batched writes and back-pressure.

Rule 1: the frames of one loop turn leave together, `FLUSH_FRAMES` at a time. No frame waits longer than its loop turn.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from serve_bridge.errors import ProtocolError
from serve_bridge.wire.seal import Records

FLUSH_FRAMES: Final = 8
"""Frames of one loop turn that leave in one write. The peer handles them while this process makes the next ones."""
FLUSH_PIECES: Final = 32
"""Pieces of streams that leave in one write. They are made quickly, and one write costs as much as ten of them."""
UNCOPIED_BYTES: Final = 16 * 1024
"""Size in bytes from which a piece of a body is written without a copy. For a shorter one, a copy costs less than a
separate write."""
MOST_UNREAD_BYTES: Final = 64 << 20
"""Upper limit for the bytes that a peer has not read. Above it, the connection closes."""


class FrameWriter:
    """Writes the frames of one connection to its transport.

    Attributes:
        writes: Number of writes to the socket.
        written: Number of bytes written to the socket.
        paused: Done once the socket takes bytes again; None while it takes them.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None  # uvloop's transports are not subclasses of asyncio.Transport
        self._seal_out: Records | None = None
        self._out: list[bytes] = []
        self._turn_ends = False
        self.writes: int = 0
        self.written: int = 0
        self.paused: asyncio.Future[None] | None = None

    def close(self, error: BaseException | None = None) -> None:
        """Close the connection at once, because of *error* if any."""
        raise NotImplementedError  # abstract

    def is_quiet(self) -> bool:
        """Return whether the connection has at most one request, so no other frame is likely to follow soon."""
        raise NotImplementedError  # abstract

    def send(self, frame: bytes, together: int = FLUSH_FRAMES) -> None:
        """Send *frame*: at once on a quiet connection, otherwise with the other frames of this loop turn.

        At most *together* frames leave in one write.
        """
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
        """Send a DATA frame. The caller must not change *piece* before `writable` returns."""
        if len(piece) < UNCOPIED_BYTES or self._seal_out is not None:
            self.send(header + piece)
            return
        self._flush()
        if not self._transport.is_closing():
            self.writes += 1
            self.written += len(header) + len(piece)
            self._transport.writelines((header, piece))

    def backed_up(self, unread: int) -> None:
        """React to a peer that reads slowly: *unread* bytes wait, more than the socket takes."""

    def unread(self) -> int:
        """Return the number of bytes that wait for the peer, not counting those in the socket's buffer."""
        return int(self._transport.get_write_buffer_size())

    def pause_writing(self) -> None:
        """Let the senders of bodies wait."""
        if self.paused is None:
            self.paused = self._loop.create_future()

    def resume_writing(self) -> None:
        """Let the waiting senders continue."""
        if self.paused is not None:
            self.paused.set_result(None)
            self.paused = None

    async def writable(self) -> None:
        """Wait until the socket takes more bytes."""
        while self.paused is not None:
            await asyncio.shield(self.paused)

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
