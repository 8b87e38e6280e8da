"""A WebSocket client of bytes: it can break every rule."""

from __future__ import annotations

import contextlib
import socket
from types import TracebackType

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
FIELDS = (b"Host: localhost", b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", KEY)
DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate"


def handshake(path: str, *more: bytes, line: bytes = b"GET %b HTTP/1.1", fields: tuple[bytes, ...] = FIELDS) -> bytes:
    """Return the request of a handshake."""
    return b"\r\n".join([line.replace(b"%b", path.encode()), *fields, *more, b"", b""])


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    masked: bool = True,
    length_bytes: int | None = None,
    length: int | None = None,
) -> bytes:
    """Return a frame, right or wrong.

    Args:
        opcode: 0 to 15.
        payload: Masked by zeros, which change nothing.
        fin: Whether it is the message's last.
        reserved: The three reserved bits, 4 for the one of compression.
        masked: As a client has to.
        length_bytes: How many bytes the length takes after the first two: 0, 2 or 8. None: as few as it needs.
        length: What it says its length is. None: the truth.
    """
    length = len(payload) if length is None else length
    if length_bytes is None:
        length_bytes = 0 if length < 126 else 2 if length < 2**16 else 8
    short = {0: length, 2: 126, 8: 127}[length_bytes]
    head = bytes([fin << 7 | reserved << 4 | opcode, masked << 7 | short])
    return head + (length.to_bytes(length_bytes) if length_bytes else b"") + (bytes(4) if masked else b"") + payload


def close_frame(code: int, reason: bytes = b"") -> bytes:
    """Return a frame that closes with *code*, whether it may or not."""
    return frame(CLOSE, code.to_bytes(2) + reason)


class RawWebSocket:
    """A connection, and what came over it."""

    def __init__(self, address: tuple[str, int], *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(20)
        self.socket.connect(address)
        self._received = bytearray()

    def __enter__(self) -> RawWebSocket:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes; who refuses them may close meanwhile."""
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(data)

    def head(self) -> bytes:
        """Return the head of the answer to the handshake."""
        while b"\r\n\r\n" not in self._received:
            self._more()
        return self._take(self._received.index(b"\r\n\r\n") + 4)

    def open(self, path: str, *more: bytes) -> RawWebSocket:
        """Shake hands."""
        self.send(handshake(path, *more))
        head = self.head()
        assert head.startswith(b"HTTP/1.1 101 "), head
        return self

    def frame(self) -> tuple[int, bytes]:
        """Return opcode and payload of the next frame, which is right and whole."""
        first, short = self._take(2)
        assert first & 0xB0 == 0x80, first  # compressed or not, it is the only frame of its message
        length = short if short < 126 else int.from_bytes(self._take(2 if short == 126 else 8))
        return first & 15, self._take(length)

    def closed(self) -> int | None:
        """Read to the end; return the code of the close frame, which nothing follows, or None if there was none."""
        code = None
        try:
            while True:
                opcode, payload = self.frame()
                assert code is None, "a frame follows the close frame"
                if opcode == CLOSE:
                    code = int.from_bytes(payload[:2])
        except EOFError:
            return code

    def rest(self) -> bytes:
        """Read to the end; return all that came."""
        with contextlib.suppress(EOFError):
            while True:
                self._more()
        return self._take(len(self._received))

    def _take(self, count: int) -> bytes:
        while len(self._received) < count:
            self._more()
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

    def _more(self) -> None:
        piece = self.socket.recv(65536)
        if not piece:
            raise EOFError
        self._received += piece
