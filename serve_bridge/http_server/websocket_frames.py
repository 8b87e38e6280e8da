"""The frames of one WebSocket: bytes in, messages out.

The sans-I/O protocol of `websockets` makes the handshake, writes frames, and answers pings and closes. This module
reads frames, in short steps.

Rule 1: sans-I/O. `http_framing` has read the head of the handshake.
Rule 2: a step is short for any input: one head, or one piece of a payload, or one inflated piece.
Rule 3: a message is kept once, in pieces, and `held` counts their memory. Text is decoded piece by piece.
Rule 4: a length must use as few bytes as possible (RFC 6455 section 5.2). Otherwise the connection fails with 1002.
Rule 5: compressing one message must not block the loop for long, so the server sends long messages uncompressed.
"""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Generator
from typing import Any, Final

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from serve_bridge.http_server.websocket_pieces import PIECE_BYTES, MessagePieces

try:
    from websockets.speedups import apply_mask
except ImportError:  # a build without the C extension
    from websockets.utils import apply_mask

__all__ = [
    "FrameProtocol",
]

COMPRESSED_BYTES: Final = 256 * 1024
"""Upper limit for a compressed message in bytes. Deflate takes up to 40 ms per MB, and blocks the loop."""
FRAME_COST: Final = 2048
"""Cost of a frame in the budget of a turn, beside its bytes. Reading an empty frame takes as long as so many bytes."""
TINY_BYTES: Final = 64
"""Number of bytes below which a fragment is tiny: its frame costs more time than its content."""

_END_OF_BLOCK: Final = b"\x00\x00\xff\xff"
"""Bytes left out by permessage-deflate at the end of each message (RFC 7692 section 7.2.1)."""

_CONT, _TEXT, _BINARY = int(Opcode.CONT), int(Opcode.TEXT), int(Opcode.BINARY)
_KNOWN: Final = frozenset(map(int, Opcode))
_CONTROL: Final = 0x8
_EXTRA: Final = {126: 2, 127: 8}
"""Number of length bytes after the first two bytes of a frame, by the length field in the second."""
_LEAST: Final = {126: 126, 127: 2**16}
"""Lower limit for the length in these bytes."""


class FrameProtocol(ServerProtocol):
    """The server's side of a connection, after the head of the handshake.

    Attributes:
        message: A complete message for `take_message`; None: no message is complete.
        tiny_fragments: Number of tiny fragments so far. The owner lowers the number over time.
        behind: Whether the client has not read what was sent. Then only the pong for its latest ping waits.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.message: str | bytes | None = None
        self.tiny_fragments: int = 0
        self.behind: bool = False
        self._late_pong: Frame | None = None
        self._most = options["max_size"]
        self._opcode: int | None = None
        self._deflate: PerMessageDeflate | None = None
        self._inflates = False
        self._to_inflate: bytes | None = None
        self._size = 0
        self._pieces: MessagePieces | None = None
        self._decode: codecs.IncrementalDecoder | None = None
        self._left: int | None = None
        self._mask = b""
        self._fin = False

    @property
    def held(self) -> int:
        """Bytes of memory held by the incomplete message."""
        return 0 if self._pieces is None else self._pieces.held

    def parse(self) -> Generator[None]:
        """Read no bytes: frames are read by `read`."""
        while True:
            yield

    def read(self, received: bytearray, budget: int) -> int:
        """Take frames from *received* until a message is complete, or the bytes or the *budget* are used up.

        Returns:
            The cost of the steps; 0: no step is possible without more bytes.
        """
        spent = 0
        try:
            while spent < budget and self.message is None and not self.eof_sent:
                cost = self._step(received)
                if not cost:
                    break
                spent += cost
        except ProtocolError as error:
            spent += self._failed(CloseCode.PROTOCOL_ERROR, str(error), error)
        except UnicodeDecodeError as error:
            spent += self._failed(CloseCode.INVALID_DATA, f"{error.reason} at position {error.start}", error)
        except PayloadTooBig as error:
            spent += self._failed(CloseCode.MESSAGE_TOO_BIG, "message too big", error)
        if self.eof_sent:  # the client has sent a close frame, or the connection has failed
            received.clear()
            self.forget()
        return spent

    def take_message(self) -> str | bytes:
        """Return the complete message."""
        message, self.message = self.message, None
        assert message is not None
        return message

    def fail(self, code: CloseCode | int, reason: str = "") -> None:
        """Fail the connection, and drop the incomplete message."""
        super().fail(code, reason)
        self.forget()

    def forget(self) -> None:
        """Free the memory of messages. The protocol is part of a reference cycle, so it may stay in memory for long."""
        self._pieces = self._to_inflate = self.message = None

    def send_frame(self, frame: Frame) -> None:
        """Send a frame. Compress it if the handshake has agreed on compression and the frame is short."""
        if self.behind and frame.opcode is Opcode.PONG:
            self._late_pong = frame  # RFC 6455 section 5.5.3: earlier pings need no pong of their own
        elif len(frame.data) > COMPRESSED_BYTES:
            self.writes.append(frame.serialize(mask=False))
        else:
            super().send_frame(frame)

    def catch_up(self) -> None:
        """Send the pong that has waited for the client to read."""
        self.behind = False
        pong, self._late_pong = self._late_pong, None
        if pong is not None and self.state is State.OPEN:
            self.send_frame(pong)

    def _failed(self, code: CloseCode, reason: str, error: Exception) -> int:
        if not self.eof_sent:  # otherwise the error is in a close frame, and the connection has failed already
            self.fail(code, reason)
        self.parser_exc = error
        return FRAME_COST

    # Steps

    def _step(self, received: bytearray) -> int:
        """Take one step. Return its cost."""
        if self._to_inflate is not None:
            return self._inflate(self._to_inflate)
        if self._left is not None:
            return self._payload(received, self._left)
        return self._head(received)

    def _head(self, received: bytearray) -> int:
        """Take the head of a frame, or a whole frame if it is short."""
        if len(received) < 2:
            return 0
        first, second = received[0], received[1]
        length = second & 0x7F
        opcode = first & 0x0F
        self._check_head(first, second, opcode, length)
        start = 6
        if length >= 126:
            extra = _EXTRA[length]
            least = _LEAST[length]
            start += extra
            if len(received) < start:
                return 0
            length = int.from_bytes(received[2 : 2 + extra])
            if not least <= length < 2**63:
                raise ProtocolError("the length of a frame is malformed")
        if self._most is not None and length > self._most - self._size and not opcode & _CONTROL:
            raise PayloadTooBig(length, self._most)
        end = start + length
        here = len(received)
        if here < start:
            return 0
        fin = first >= 0x80
        if opcode & _CONTROL:
            if here < end:
                return 0
            payload = apply_mask(received[start:end], received[start - 4 : start])
            del received[:end]
            self.recv_frame(Frame(Opcode(opcode), payload))
            return FRAME_COST
        if first == 0x80 | opcode and opcode and length <= PIECE_BYTES and here >= end:  # most messages
            payload = apply_mask(received[start:end], received[start - 4 : start])
            del received[:end]
            self.message = str(payload, "utf-8") if opcode == _TEXT else payload
            return FRAME_COST + length
        self._begin_frame(opcode, compressed=bool(first & 0x40))
        self._fin, self._left = fin, length
        if length < TINY_BYTES and not (fin and opcode):
            self.tiny_fragments += 1
        self._mask = bytes(received[start - 4 : start])
        del received[:start]
        return FRAME_COST + self._payload(received, length)

    def _check_head(self, first: int, second: int, opcode: int, length: int) -> None:
        """Check the first two bytes of a frame.

        Raises:
            ProtocolError: A client must not send such a frame, or not at this point.
        """
        if opcode not in _KNOWN:
            raise ProtocolError("invalid opcode")
        if not second & 0x80:
            raise ProtocolError("incorrect masking")
        if opcode & _CONTROL:
            if first & 0x70:
                raise ProtocolError("reserved bits must be 0")
            if first < 0x80:
                raise ProtocolError("fragmented control frame")
            if length > 125:
                raise ProtocolError("control frame too long")
            return
        if first & 0x30 or (first & 0x40 and (opcode == _CONT or not self.extensions)):
            raise ProtocolError("reserved bits must be 0")
        if (opcode == _CONT) is (self._opcode is None):
            raise ProtocolError("expected a continuation frame" if opcode else "unexpected continuation frame")

    def _begin_frame(self, opcode: int, *, compressed: bool) -> None:
        if opcode == _CONT:
            return
        self._opcode = opcode
        self._inflates = compressed
        if opcode == _TEXT:
            self._pieces = MessagePieces("")
            self._decode = _utf8()
        else:
            self._pieces = MessagePieces(b"")
        if compressed:
            (deflate,) = self.extensions
            assert isinstance(deflate, PerMessageDeflate)
            if deflate.remote_no_context_takeover:
                deflate.decoder = zlib.decompressobj(wbits=-deflate.remote_max_window_bits)
            self._deflate = deflate

    def _payload(self, received: bytearray, left: int) -> int:
        """Take a piece of a payload with *left* missing bytes."""
        piece = b""
        if left:
            piece = apply_mask(received[:PIECE_BYTES] if left > PIECE_BYTES else received[:left], self._mask)
            count = len(piece)
            if not count:
                return 0
            del received[:count]
            left -= count
            self._left = left
            if turned := count & 3:
                self._mask = self._mask[turned:] + self._mask[:turned]
        if self._inflates:
            ends = not left and self._fin
            return len(piece) + self._inflate(piece + _END_OF_BLOCK if ends else piece)
        self._add(piece)
        if not left:
            self._end_frame()
        return len(piece) or 1

    def _inflate(self, data: bytes) -> int:
        """Inflate *data*, but at most one piece of the result. The next step continues with the rest."""
        assert self._deflate is not None
        decoder = self._deflate.decoder
        try:
            piece = decoder.decompress(data, PIECE_BYTES)
        except zlib.error as error:
            raise ProtocolError("decompression failed") from error
        rest = decoder.unconsumed_tail
        # A full piece means the decoder may hold more output, even if it needs no more input.
        self._to_inflate = rest if rest or len(piece) == PIECE_BYTES else None
        self._add(piece)
        if self._to_inflate is None and not self._left:
            self._end_frame()
        return len(piece) or 1

    def _add(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._most is not None and self._size > self._most:
            raise PayloadTooBig(self._size, self._most)
        assert self._pieces is not None
        self._pieces.add(piece if self._decode is None else self._decode.decode(piece))

    def _end_frame(self) -> None:
        self._left = None
        if not self._fin:
            return
        if self._decode is not None:
            self._decode.decode(b"", True)
        assert self._pieces is not None
        self.message = self._pieces.joined()
        self._pieces = self._decode = self._opcode = self._deflate = None
        self._size = 0


_utf8: Final = codecs.getincrementaldecoder("utf-8")
