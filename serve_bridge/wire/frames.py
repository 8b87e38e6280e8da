"""Frames: how bytes on a data-plane connection are cut up.

Rule 1: bytes in, frames out; no sockets, no clock.
Rule 2: a length is checked before anything of that length is kept.

A frame is a 12-byte header, little endian, and its payload::

    length u32 | kind u8 | flags u8 | load u16 | stream u32 | payload

The shape, many streams on one connection with frames that open, feed and end them, is HTTP/2's (RFC 9113).
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

from serve_bridge.errors import ProtocolError

HEADER: Final = struct.Struct("<IBBHI")
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
    """Caller: the answer is no longer wanted."""
    ABORT = 7
    """Replica: the answer ends here, unfinished."""
    CREDIT = 8
    """Both: so many more body bytes may be sent on this stream."""
    GOAWAY = 9
    """Replica: no stream above this id was or will be accepted."""
    PING = 10
    PONG = 11


class Frame(NamedTuple):
    """One frame as it came off the wire."""

    kind: int
    flags: int
    load: int
    stream: int
    payload: bytes


_FIRST, _LAST = min(Kind), max(Kind)


def encode(kind: int, stream: int, payload: bytes | memoryview = b"", flags: int = 0, load: int = 0) -> bytes:
    """Return the bytes of one frame; *payload* holds at most `MAX_PAYLOAD` bytes."""
    return HEADER.pack(len(payload), kind, flags, load, stream) + payload


class FrameReader:
    """Cuts a byte stream into frames; keeps at most one unfinished frame."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that *data* completes.

        Raises:
            ProtocolError: The kind is unknown or the length above `MAX_PAYLOAD`; nothing of it was kept.
        """
        if self._rest:
            data = self._rest + data
        frames: list[Frame] = []
        offset, size = 0, len(data)
        while size - offset >= 12:
            length, kind, flags, load, stream = HEADER.unpack_from(data, offset)
            if length > MAX_PAYLOAD:
                raise ProtocolError(f"frame of {length} bytes; the limit is {MAX_PAYLOAD}")
            if not _FIRST <= kind <= _LAST:
                raise ProtocolError(f"frame of unknown kind {kind}")
            start = offset + 12
            end = start + length
            if end > size:
                break
            frames.append(Frame(kind, flags, load, stream, data[start:end]))
            offset = end
        self._rest = data[offset:]
        return frames
