"""Frames: how bytes on a data-plane connection are cut up.

Rule 1: bytes in, frames out; no sockets, no clock.
Rule 2: a length is checked before anything of that length is kept.

A frame is a 16-byte header, little endian, and its payload::

    length u32 | kind u8 | flags u8 | load u16 | stream u64 | payload

Numbers of streams are never used again, and 64 bits last longer than any connection.

The shape, many streams on one connection with frames that open, feed and end them, is HTTP/2's (RFC 9113).
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
MAX_LOAD: Final = 0xFFFF

END: Final = 1
"""Flag: the sender says nothing more on this stream."""
MORE: Final = 2
"""Flag on DATA: the message goes on in the next DATA frame."""


class Kind(IntEnum):
    """What a frame says."""

    REQUEST = 1
    """Caller: opens a stream with an HTTP request; never leads to pickle."""
    CALL = 2
    """Caller: opens a stream with a Python call; refused on connections of the role "edge"."""
    DATA = 3
    """Both: a piece of the body."""
    RESPONSE = 4
    """Replica: the head of the answer."""
    REJECT = 5
    """Replica: refused before anything ran; proves "not started"."""
    CANCEL = 6
    """Caller: the answer is no longer wanted, or the rest of the body will not come."""
    ABORT = 7
    """Replica: the answer ends here, unfinished."""
    CREDIT = 8
    """Both: so many more body bytes may be sent on this stream."""
    GOAWAY = 9
    """Replica: no stream above this id was or will be accepted."""
    PING = 10
    PONG = 11


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One frame as it came off the wire; plain ints, since an enum's members are slow to make.

    Attributes:
        placed: Bytes of payload that went to their place (see `FrameReader`) as they came; *payload* is empty then.
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
        SerializationError: *payload* is larger than `MAX_PAYLOAD`; a peer would close the connection.
    """
    size = len(payload)
    if size > MAX_PAYLOAD:
        raise SerializationError(f"a head or piece of {size} bytes; the limit is {MAX_PAYLOAD}")
    return _pack(size, kind, flags, load, stream) + payload


def encode_header(kind: int, stream: int, size: int, flags: int = 0, load: int = 0) -> bytes:
    """Return the header of a frame whose payload, of *size* bytes, is sent behind it."""
    return _pack(size, kind, flags, load, stream)


Place = Callable[[int, int], memoryview | None]


class FrameReader:
    """Cuts a byte stream into frames; keeps at most one unfinished frame.

    The payload of a DATA frame that comes in several pieces is written where *place* wants it, who is given the stream
    and the payload's length; where that is nowhere, the pieces are joined. While `space` is not None the next bytes may
    be read into it, past `feed`.

    Attributes:
        space: Where the next bytes of a payload belong; None: nowhere in particular.
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
        self.amid = False

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that *data* completes; those that were not asked for come with the next *data*.

        Raises:
            ProtocolError: Kind or flags are unknown, or the length is above `MAX_PAYLOAD`.
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
        """Note that *size* bytes were read into `space`; return whether the next `feed` has a frame to yield."""
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
