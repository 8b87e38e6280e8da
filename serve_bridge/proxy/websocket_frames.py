"""The frames of one WebSocket of the edge: `websockets`' sans-I/O protocol, with what it leaves open closed.

Rule 1: sans-I/O: bytes in, frames and bytes to send out. The handshake was read, strictly, by `http_framing`.
Rule 2: a length is written in as few bytes as it needs (RFC 6455 section 5.2), or the connection fails with 1002.
Rule 3: no single message holds up the loop for long: a long one leaves uncompressed.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from websockets.exceptions import ProtocolError
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol
from websockets.server import ServerProtocol
from websockets.streams import StreamReader

__all__ = ["FrameProtocol"]

COMPRESSED_BYTES: Final = 256 * 1024
"""Longest message that is compressed; deflate takes up to 40 ms for each MB, in which nobody else is served."""

_LENGTH_BITS: Final = 0b0111_1111
_LEAST: Final = {126: 126, 127: 2**16}
"""What follows the first two bytes of a frame is its length, at least so much."""


class FrameProtocol(ServerProtocol):
    """The server's side of a connection, after the head of the handshake."""

    def parse(self) -> Generator[None]:
        """Read frames, and no request before them."""
        self.reader = _StrictReader()
        return Protocol.parse(self)

    def recv_frame(self, frame: Frame) -> None:
        """Take a frame; a close may come in the middle of a message (RFC 6455 section 5.4)."""
        if frame.opcode is Opcode.CLOSE:
            self.current_size = None
        super().recv_frame(frame)

    def send_frame(self, frame: Frame) -> None:
        """Send a frame, compressed if that was agreed on and the frame is short."""
        if len(frame.data) > COMPRESSED_BYTES:
            self.writes.append(frame.serialize(mask=False))
        else:
            super().send_frame(frame)


class _StrictReader(StreamReader):
    """Refuses lengths that could be shorter; `at_eof` is asked before each frame."""

    def __init__(self) -> None:
        super().__init__()
        self._reads = 0
        self._least: int | None = None

    def at_eof(self) -> Generator[None, None, bool]:
        self._reads = 0
        return super().at_eof()

    def read_exact(self, n: int) -> Generator[None, None, bytearray]:
        data = yield from super().read_exact(n)
        self._reads += 1
        if self._reads == 1:
            self._least = _LEAST.get(data[1] & _LENGTH_BITS)
        elif self._reads == 2 and self._least is not None and not self._least <= int.from_bytes(data) < 2**63:
            raise ProtocolError("the length of a frame is malformed")
        return data
