"""The messages of a WebSocket on a stream: text and bytes, and one close at the end.

Rule 1: a message is one message of DATA frames, and its last byte says what it is; so one that was torn can still be
    ended, as void.
Rule 2: messages flow on the stream's credit like any body: who does not read stops who sends.
Rule 3: a close that leaves has a code that may leave; 1005, 1006 and 1015 only say what has happened (RFC 6455 §7.4.1).
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from serve_bridge.errors import ProtocolError
from serve_bridge.wire.body import CHUNK_BYTES, BodyStream
from serve_bridge.wire.frames import MORE
from serve_bridge.wire.payload import Segment

LEAVE_GRACE_S: Final = 5.0
"""How long user code may go on once its client has left; then it is stopped."""
MAX_REASON_BYTES: Final = 123
SWITCHING: Final = 101
"""The status of the answer to a handshake that user code has accepted."""

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
    """The end of a WebSocket, as one side has said it or as the other has seen it."""

    code: int
    reason: str = ""


Message: TypeAlias = str | bytes | Close


Hold: TypeAlias = Callable[[int], bool]
"""Is told how many bytes are kept; returns whether there is room for them."""


class MessageTooLong(Exception):
    """The peer's message is longer than the reader takes."""


class NoRoom(Exception):
    """There is no room for the rest of the peer's message."""


def encode(message: Message) -> list[Segment]:
    """Return the segments of *message*; a short one is one segment.

    Raises:
        UnicodeEncodeError: The text has surrogates, which no UTF-8 has.
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
    """Return the message that *data* is; None if it is void.

    Raises:
        ProtocolError: It is none.
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
    """Return *code* if a close frame may carry it, else the nearest that may."""
    if code in range(1000, 1004) or code in range(1007, 1015) or code in range(3000, 5000):
        return code
    return NORMAL if code == NO_STATUS else FAILED


class MessageReader:
    """Reads the messages of one stream; to cancel `next` loses nothing.

    Args:
        stream: The stream.
        limit: Most bytes of a message; None: any number.
        hold: Is told how much is here of a message that takes several frames, and 0 after its end. None: there is
            room for any message.
    """

    def __init__(self, stream: BodyStream, limit: int | None = None, hold: Hold | None = None) -> None:
        self._stream = stream
        self._most = None if limit is None else max(limit, MAX_REASON_BYTES + _CODE.size) + 1
        self._hold = hold
        self._begun: list[bytes] = []  # joined once: a buffer that grows is copied, and leaves holes behind
        self._size = 0

    async def next(self) -> Message | None:
        """Return the next message; None after the last.

        Raises:
            MessageTooLong: It is longer than the limit.
            NoRoom: It has begun, and there is no room for more of it.
            ProtocolError: It is none.
            Lost, Aborted: The stream ended without its end.
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
        """Keep nothing of a message that will not be read on."""
        self._begun.clear()
        if self._hold is not None:
            self._hold(0)


class MessageWriter:
    """Sends messages on one stream, from any number of tasks at once."""

    def __init__(self, stream: BodyStream) -> None:
        self._stream = stream
        self._turn = asyncio.Lock()
        self._torn = False

    async def send(self, message: Message, *, end: bool = False) -> None:
        """Send *message*, with *end* as the last one; waits while the peer does not read.

        Raises:
            Lost: The peer wants no more, or has gone.
            UnicodeEncodeError: The text has surrogates, which no UTF-8 has.
        """
        segments = encode(message)
        async with self._turn:
            if self._torn:
                await self._stream.send_segments([_VOID], end=False)
            # Only what takes several frames can be cancelled with a part of it sent.
            self._torn = len(segments) > 1
            await self._stream.send_segments(segments, end=end)
            self._torn = False


def _shortened(reason: str) -> bytes:
    data = reason.encode(errors="replace")
    return data if len(data) <= MAX_REASON_BYTES else data[:MAX_REASON_BYTES].decode(errors="ignore").encode()
