"""Bodies on a stream, sent and read with back-pressure.

Rule 1: one task at a time sends a body. Several tasks may wait for the next piece, and each piece goes to one of them.
Rule 2: the peer gets credit only after a task has taken a piece, and only while the peer can still use it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Final

from serve_bridge.errors import ProtocolError
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.frame_writer import UNCOPIED_BYTES
from serve_bridge.wire.frames import END, MORE, Frame, Kind, encode, encode_header
from serve_bridge.wire.segments import Segment
from serve_bridge.wire.space import space_for
from serve_bridge.wire.streams import ANSWER_WINDOW, CREDIT, FRAME_COST, Stream
from serve_bridge.wire.transport import FrameTransport

CHUNK_BYTES: Final = 125 * 1024
"""Upper limit for a piece of a body, in bytes.

Eight pieces with their `FRAME_COST` fill a window, and two fill one read of uvloop. A block above 128 KiB would be
slower: the allocator gets it from the system and returns it page by page (see mallopt(3)).
"""
MAX_MESSAGE_BYTES: Final = 2 << 30
"""Upper limit for a message, in bytes, unless the reader sets another one."""
_UNWANTED: Final = "the peer does not want more of this body"


class BodyStream(Stream):
    """A stream that sends and reads bodies; the base of the streams at both ends."""

    __slots__ = ("_chunks", "_consumed", "_credit", "_end", "_readers", "connection")

    connection: FrameTransport

    def __init__(self, id: int, state: int, *, send_window: int, recv_window: int) -> None:
        super().__init__(id, state, send_window=send_window, recv_window=recv_window)
        self._chunks: deque[Frame] = _NOTHING
        self._end: BaseException | bool = False
        self._readers: list[asyncio.Future[None]] = _NOBODY
        self._credit: asyncio.Future[None] | None = None
        self._consumed = 0

    @property
    def body_ended(self) -> bool:
        """Whether the peer's body has ended, completely or early."""
        return self._end is not False

    def may_send(self) -> bool:
        """Return whether the peer still takes body bytes on this stream."""
        raise NotImplementedError  # abstract: the two ends have different states

    def may_receive(self) -> bool:
        """Return whether the peer can still use credit on this stream."""
        raise NotImplementedError  # abstract

    # calls of the connection

    def put(self, frame: Frame) -> None:
        """Add a DATA frame to the peer's body."""
        if self._end:
            return  # the reader does not want the body any more
        if self.space is not None:
            self._fill(frame)
        else:
            if not self._chunks:
                if self._chunks is _NOTHING:
                    self._chunks = deque()
                self._wake_readers()  # readers wait only while there is no piece
            self._chunks.append(frame)
        if frame.flags & END:
            self.end_body()

    def place(self, size: int) -> memoryview | None:
        """Do as `Stream.place`, and let the connection read straight into the buffer."""
        found = super().place(size)
        if found is not None:
            self.connection.receive_in_bulk()
        return found

    def end_body(self, error: BaseException | None = None) -> None:
        """End the peer's body. Readers get the pieces that have arrived, and then *error* if the body is incomplete."""
        if not self._end:
            self._end = error or True
            self._wake_readers()

    def drop(self) -> None:
        """Drop the unread pieces of the peer's body."""
        self._chunks = _NOTHING

    def wake_sender(self) -> None:
        """Let the waiting sender check its credit and the stream again."""
        if self._credit is not None and not self._credit.done():
            self._credit.set_result(None)

    def _wake_readers(self) -> None:
        for reader in self._readers:
            if not reader.done():
                reader.set_result(None)

    # sending

    async def send_segments(self, segments: Sequence[Segment], *, end: bool) -> None:
        """Send *segments* as one message of DATA frames, as fast as credit and the socket allow.

        With *end*, the message ends the body. Without *end*, the segments may change after the return: no frame refers
        to them any more.

        Raises:
            Lost: The peer does not want more of the body, or has gone.
        """
        if len(segments) == 1 and type(short := segments[0]) is bytes and len(short) < UNCOPIED_BYTES:
            await self._send_piece(short, END if end else 0)  # the usual event or token, which is copied
            return
        pieces = [piece for segment in segments for piece in _pieces(memoryview(segment).cast("B"))]
        last = pieces.pop() if pieces else memoryview(b"")
        for piece in pieces:
            await self._send_piece(piece, MORE)
        await self._send_piece(last, END if end else 0)
        if not end:
            await self.connection.writable()

    async def accepted(self) -> None:
        """Wait for the first credit, by which the peer accepts the request and asks for its body.

        Raises:
            Lost: The peer does not want the body.
        """
        await self._window_of(1)

    async def _send_piece(self, piece: bytes | memoryview, flags: int) -> None:
        size = len(piece) + FRAME_COST
        if self.send_window < size:
            await self._window_of(size)
        await self.connection.writable()
        if not self.may_send():
            raise Lost("unknown", _UNWANTED)
        self.send_window -= size
        self._send_data(piece, flags)

    async def _window_of(self, size: int) -> None:
        while self.send_window < size and self.may_send():
            self._credit = asyncio.get_running_loop().create_future()
            await self._credit
        if not self.may_send():
            raise Lost("unknown", _UNWANTED)

    def _send_data(self, piece: bytes | memoryview, flags: int) -> None:
        self.connection.send_piece(encode_header(Kind.DATA, self.id, len(piece), flags), piece)

    # reading

    async def next_chunk(self) -> bytes | None:
        """Return the next piece of the peer's body, and give credit for it; None after the last."""
        while (frame := await self.next_frame()) is not None:
            if frame.payload:
                return frame.payload
        return None

    async def chunks(self) -> AsyncIterator[bytes]:
        """Iterate the peer's body as it arrives."""
        while (chunk := await self.next_chunk()) is not None:
            yield chunk

    async def messages(self, limit: int = MAX_MESSAGE_BYTES) -> AsyncIterator[bytearray]:
        """Iterate the peer's messages, each as one buffer.

        Raises:
            ProtocolError: A message is longer than *limit* bytes.
        """
        message = bytearray()
        while (frame := await self.next_frame()) is not None:
            message += frame.payload
            if len(message) > limit:
                raise ProtocolError(f"message of more than {limit} bytes")
            if not frame.flags & MORE:
                yield message
                message = bytearray()

    async def read(self, size: int) -> memoryview:
        """Return the whole body, which has *size* bytes by its head. It is read into one buffer without a copy.

        Raises:
            ProtocolError: The body has another size.
            MemoryError: This process lacks memory for the body.
        """
        body = self.space = space_for(size)
        try:
            while self._chunks:
                self._fill(self._chunks.popleft())
            while not self._end:
                await self._more()
            if isinstance(self._end, BaseException):
                raise self._end
            if self.space:
                raise ProtocolError(f"body of {size - len(self.space)} bytes where {size} were announced")
            return body
        finally:
            self.space = None

    def _fill(self, frame: Frame) -> None:
        """Copy the payload of *frame* into the buffer, unless the connection has read it there."""
        try:
            self.fill(frame.payload)
        except ProtocolError as error:
            self.end_body(error)
        self._return_credit(len(frame.payload) + frame.placed + FRAME_COST)

    async def next_frame(self) -> Frame | None:
        """Return the next DATA frame, and give credit for it; None after the last.

        Cancellation is safe: no frame is lost.
        """
        while not self._chunks:
            if isinstance(self._end, BaseException):
                raise self._end
            if self._end:
                return None
            await self._more()
        frame = self._chunks.popleft()
        self._return_credit(len(frame.payload) + FRAME_COST)
        return frame

    def joined(self, frame: Frame) -> bytes:
        """Return the bytes of *frame* and the short frames that wait behind it, so that one write can pass them on."""
        chunks = self._chunks
        if not chunks:
            return frame.payload
        pieces = [frame.payload]
        room = CHUNK_BYTES - len(frame.payload)
        while chunks:
            following = chunks[0]
            payload = following.payload
            room -= len(payload)
            if room < 0 or following.flags & END:
                break
            pieces.append(payload)
            chunks.popleft()
        joined = b"".join(pieces)
        self._return_credit(len(joined) - len(frame.payload) + (len(pieces) - 1) * FRAME_COST)
        return joined

    async def _more(self) -> None:
        if self._readers is _NOBODY:
            self._readers = []
        reader = asyncio.get_running_loop().create_future()
        self._readers.append(reader)
        try:
            await reader
        finally:
            self._readers.remove(reader)

    def _return_credit(self, size: int) -> None:
        self._consumed += size
        # A CREDIT frame costs both ends, so credit is given for a quarter of the window at a time. The other three
        # quarters keep the sender busy until then.
        if self._consumed >= ANSWER_WINDOW // 4 and self.may_receive():
            self.give_credit(self._consumed)
            self._consumed = 0

    def give_credit(self, size: int) -> None:
        """Let the peer send *size* bytes more."""
        self.recv_window += size
        self.connection.send(encode(Kind.CREDIT, self.id, CREDIT.pack(size)))


_NOTHING: Final[deque[Frame]] = deque(maxlen=0)
_NOBODY: Final[list[asyncio.Future[None]]] = []
"""Shared stand-ins for the pieces and the readers of a stream without any. Most bodies travel in the frame of their
head, so most streams need neither."""


def _pieces(view: memoryview) -> list[memoryview]:
    return [view[start : start + CHUNK_BYTES] for start in range(0, len(view), CHUNK_BYTES)]
