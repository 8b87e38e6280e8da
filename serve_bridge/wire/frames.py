"""Frames, the units into which the bytes on a data-plane connection are cut.

Rule 1: the reader takes bytes and returns frames. It knows no socket and no clock.
Rule 2: the length of a frame is checked before any of its payload is kept.

A frame is a 16-byte header, little endian, and its payload::

    length u32 | kind u8 | flags u8 | load u16 | stream u64 | payload

A connection never uses the number of a stream twice, and it never runs out of 64-bit numbers.

The design is that of HTTP/2 (RFC 9113): many streams on one connection, with frames that open, feed and end them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Final

import msgspec

from serve_bridge.errors import ProtocolError, SerializationError

HEADER: Final = struct.Struct("<IBBHQ")
HEADER_BYTES: Final = 16
MAX_PAYLOAD: Final = 1 << 20
"""Upper limit for the payload of a frame, in bytes."""
MAX_LOAD: Final = 0xFFFF
"""Upper limit for the load in a header."""

END: Final = 1
"""Flag: the sender's last frame on this stream."""
MORE: Final = 2
"""Flag on DATA: the message continues in the next DATA frame."""


class Kind(IntEnum):
    """The type of a frame."""

    REQUEST = 1
    """From the caller: opens a stream with an HTTP request. Its content is never unpickled."""
    CALL = 2
    """From the caller: opens a stream with a Python call. Connections of the role "edge" must not send it."""
    DATA = 3
    """From both: a piece of the body."""
    RESPONSE = 4
    """From the replica: the head of the answer."""
    REJECT = 5
    """From the replica: it refused the request, so no user code ran."""
    CANCEL = 6
    """From the caller: it does not want the answer any more, or will not send the rest of the body."""
    ABORT = 7
    """From the replica: the answer ends here, incomplete."""
    CREDIT = 8
    """From both: the peer may send more body bytes on this stream; the payload tells how many."""
    GOAWAY = 9
    """From the replica: it did not and will not accept any stream above this number."""
    PING = 10
    """From the caller: asks for a PONG."""
    PONG = 11
    """From the replica: answers a PING."""


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One received frame.

    Attributes:
        kind: A `Kind` as an int, because members of an enum are slow to make.
        flags: `END`, `MORE` or both.
        load: Number of requests at the replica.
        stream: Number of the stream; 0 for a frame about the connection.
        payload: The payload; empty if it was read into a buffer (see `FrameReader`).
        placed: Bytes of payload that were read into a buffer.
    """

    kind: int
    flags: int
    load: int
    stream: int
    payload: bytes
    placed: int = 0


_FIRST, _LAST, _DATA = int(min(Kind)), int(max(Kind)), int(Kind.DATA)
_FLAGS = END | MORE
_pack, _unpack_from = HEADER.pack, HEADER.unpack_from


def encode(kind: int, stream: int, payload: bytes = b"", flags: int = 0, load: int = 0) -> bytes:
    """Return the bytes of one frame.

    Raises:
        SerializationError: *payload* is larger than `MAX_PAYLOAD`. The peer would close the connection.
    """
    size = len(payload)
    if size > MAX_PAYLOAD:
        raise SerializationError(f"a head or piece of {size} bytes; the limit is {MAX_PAYLOAD}")
    return _pack(size, kind, flags, load, stream) + payload


def encode_header(kind: int, stream: int, size: int, flags: int = 0, load: int = 0) -> bytes:
    """Return the header of a frame. The caller sends the payload of *size* bytes behind it."""
    return _pack(size, kind, flags, load, stream)


Place = Callable[[int, int], memoryview | None]
"""Returns the buffer for a payload, given its stream and its size in bytes; None if there is no buffer."""


class FrameReader:
    """Cuts a byte stream into frames, and keeps at most one unfinished frame.

    If the payload of a DATA frame arrives in several pieces, the reader asks *place* for a buffer. With a buffer, the
    pieces are written into it; without one, they are joined. While `space` is not None, the caller may read the next
    bytes straight into it, and then call `filled` instead of `feed`.

    Attributes:
        space: Unfilled rest of the buffer for the current payload; None if there is no buffer.
        amid: Whether the iterator of the last `feed` may have more frames.
    """

    __slots__ = ("_begun", "_missing", "_parts", "_place", "_rest", "amid", "space")

    def __init__(self, place: Place | None = None) -> None:
        self._place = place
        self._rest = b""
        self._begun: tuple[int, int, int, int, int] | None = None
        self._missing = 0
        self._parts: list[bytes] = []
        self.space: memoryview | None = None
        self.amid: bool = False

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that *data* completes. If the caller stops early, the next `feed` yields the other frames.

        Raises:
            ProtocolError: The kind or the flags of a frame are unknown, or its length is above `MAX_PAYLOAD`.
        """
        offset = 0
        begun = self._begun
        if begun is not None:
            offset = self._missing
            if len(data) < offset:
                self._take(data)
                return
            self._take(data[:offset] if len(data) > offset else data)
        elif self._rest:
            data = self._rest + data
            self._rest = b""
        size = len(data)
        self.amid = True
        try:
            if begun is not None:
                yield self._completed(begun)
            while size - offset >= HEADER_BYTES:
                length, kind, flags, load, stream = _unpack_from(data, offset)
                if length > MAX_PAYLOAD:
                    raise ProtocolError(f"frame of {length} bytes; the limit is {MAX_PAYLOAD}")
                if not _FIRST <= kind <= _LAST or flags > _FLAGS:
                    raise ProtocolError(f"frame of unknown kind {kind} or flags {flags}")
                start = offset + HEADER_BYTES
                end = start + length
                if end > size:
                    self._begin(length, kind, flags, load, stream)
                    self._take(data[start:])
                    offset = size
                    break
                offset = end
                yield Frame(kind, flags, load, stream, data[start:end])
        finally:
            self.amid = False
            if offset < size:
                self._rest = data[offset:]

    def filled(self, size: int) -> bool:
        """Note that *size* bytes were read into `space`. Return whether they complete a frame for the next `feed`."""
        assert self.space is not None
        self._missing -= size
        self.space = self.space[size:]
        return not self._missing

    def _begin(self, length: int, kind: int, flags: int, load: int, stream: int) -> None:
        self._begun = length, kind, flags, load, stream
        self._missing = length
        if kind == _DATA and self._place is not None:
            self.space = self._place(stream, length)

    def _take(self, piece: bytes) -> None:
        self._missing -= len(piece)
        if self.space is None:
            self._parts.append(piece)
        elif piece:
            self.space[: len(piece)] = piece
            self.space = self.space[len(piece) :]

    def _completed(self, begun: tuple[int, int, int, int, int]) -> Frame:
        length, kind, flags, load, stream = begun
        self._begun = None
        if self.space is not None:
            self.space = None
            return Frame(kind, flags, load, stream, b"", length)
        payload = b"".join(self._parts)
        self._parts.clear()
        return Frame(kind, flags, load, stream, payload)
