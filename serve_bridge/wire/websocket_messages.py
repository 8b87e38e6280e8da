"""The messages of a WebSocket on a stream: text, bytes, and one close at the end.

Rule 1: a message is one message of DATA frames. Its last byte gives its type: text, bytes, close or void. The type
    comes last, so a sender that is cancelled halfway can still mark the message as void.
Rule 2: messages use the credit of the stream, as any body does. So a reader that does not read pauses the sender.
Rule 3: a close is sent only with a code that RFC 6455 section 7.4.1 allows on the wire. The codes 1005, 1006 and 1015
    only describe how a WebSocket has ended.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from serve_bridge.errors import ProtocolError
from serve_bridge.wire.body import CHUNK_BYTES, BodyStream
from serve_bridge.wire.frames import MORE
from serve_bridge.wire.segments import Segment

LEAVE_GRACE_S: Final = 5.0
"""Seconds that user code may run after its client has disconnected. Then it is cancelled."""
MAX_REASON_BYTES: Final = 123
"""Upper limit for the reason of a close, in bytes (RFC 6455 section 5.5)."""
SWITCHING: Final = 101
"""Status of the answer to an accepted handshake."""

NORMAL: Final = 1000
GOING_AWAY: Final = 1001
NO_STATUS: Final = 1005
BROKEN: Final = 1006
TOO_LONG: Final = 1009
FAILED: Final = 1011
TRY_LATER: Final = 1013

_TEXT, _BYTES, _CLOSE, _VOID = b"t", b"b", b"c", b"v"
_CODE = struct.Struct(">H")


class Close(NamedTuple):
    """The end of a WebSocket: sent by one side, or noticed by the other."""

    code: int
    reason: str = ""


Message: TypeAlias = str | bytes | Close


Hold: TypeAlias = Callable[[int], bool]
"""Takes the number of bytes of an incomplete message. Returns whether there is memory for them."""


class MessageTooLong(Exception):
    """The peer's message is longer than the reader's limit."""


class NoRoom(Exception):
    """There is no memory for the rest of the peer's message."""


def encode(message: Message) -> list[Segment]:
    """Return the segments of *message*. A short message is one segment.

    Raises:
        UnicodeEncodeError: The text has surrogates, which UTF-8 cannot encode.
    """
    if isinstance(message, str):
        data, kind = message.encode(), _TEXT
    elif isinstance(message, Close):
        code = message.code if 0 <= message.code <= 0xFFFF else BROKEN
        data, kind = _CODE.pack(code) + _shortened(message.reason), _CLOSE
    else:
        data, kind = bytes(message), _BYTES
    return [data + kind] if len(data) < CHUNK_BYTES else [data, kind]


def decode(data: bytes | bytearray) -> Message | None:
    """Return the message in *data*; None if it is void.

    Raises:
        ProtocolError: *data* is not a message.
    """
    view = memoryview(data)
    kind, content = bytes(view[-1:]), view[:-1]
    try:
        if kind == _TEXT:
            return str(content, "utf-8")
        if kind == _BYTES:
            return bytes(content)
        if kind == _VOID:
            return None
        if kind == _CLOSE and 2 <= len(content) <= 2 + MAX_REASON_BYTES:
            return Close(_CODE.unpack_from(content)[0], str(content[2:], "utf-8"))
    except UnicodeDecodeError:
        pass
    raise ProtocolError("a message of a WebSocket is malformed")


def sendable(code: int) -> int:
    """Return *code* if a close frame may have it. Otherwise return 1000 for "no status", and 1011 for all others."""
    if code in range(1000, 1004) or code in range(1007, 1015) or code in range(3000, 5000):
        return code
    return NORMAL if code == NO_STATUS else FAILED


class MessageReader:
    """Reads the messages of one stream. Cancelling `next` is safe: no message is lost.

    Args:
        stream: The stream.
        limit: Upper limit for a message in bytes; None: there is no limit.
        hold: Called with the number of bytes kept of a message in several frames, and with 0 after its end. None:
            there is memory for any message.
    """

    def __init__(self, stream: BodyStream, limit: int | None = None, hold: Hold | None = None) -> None:
        self._stream = stream
        self._most = None if limit is None else max(limit, MAX_REASON_BYTES + _CODE.size) + 1
        self._hold = hold
        self._begun: list[bytes] = []  # joined at the end, because a growing buffer is copied and fragments the heap
        self._size = 0

    async def next(self) -> Message | None:
        """Return the next message; None after the last.

        Raises:
            MessageTooLong: The message is longer than the limit.
            NoRoom: There is no memory for the rest of the message.
            ProtocolError: The bytes are not a message.
            Lost, Aborted: The stream ended early.
        """
        while (frame := await self._stream.next_frame()) is not None:
            data = frame.payload
            if self._most is not None and self._size + len(data) > self._most:
                self._drop()
                raise MessageTooLong
            if self._begun or frame.flags & MORE:
                self._begun.append(data)
                self._size += len(data)
                if self._hold is not None and not self._hold(self._size if frame.flags & MORE else 0):
                    self._drop()
                    raise NoRoom
                if frame.flags & MORE:
                    continue
                data = b"".join(self._begun)
                self._begun.clear()
                self._size = 0
            if data and (message := decode(data)) is not None:
                return message
            del frame, data
        return None

    def _drop(self) -> None:
        """Drop the begun message, whose rest will not be read."""
        self._begun.clear()
        if self._hold is not None:
            self._hold(0)


class MessageWriter:
    """Sends messages on one stream. Several tasks may use it at once."""

    def __init__(self, stream: BodyStream) -> None:
        self._stream = stream
        self._turn = asyncio.Lock()
        self._torn = False

    async def send(self, message: Message, *, end: bool = False) -> None:
        """Send *message*, with *end* as the last one. It waits while the peer does not read.

        Raises:
            Lost: The peer does not want more messages, or has gone.
            UnicodeEncodeError: The text has surrogates, which UTF-8 cannot encode.
        """
        segments = encode(message)
        async with self._turn:
            if self._torn:
                await self._stream.send_segments([_VOID], end=False)
            # A message of one frame is sent completely or not at all. A longer one may be cancelled halfway.
            self._torn = len(segments) > 1
            await self._stream.send_segments(segments, end=end)
            self._torn = False


def _shortened(reason: str) -> bytes:
    data = reason.encode(errors="replace")
    return data if len(data) <= MAX_REASON_BYTES else data[:MAX_REASON_BYTES].decode(errors="ignore").encode()
