"""The framing of HTTP/1 requests: where each request begins and ends in the bytes of a connection.

Rule 1: sans-I/O and without a clock. Bytes in, heads and pieces of bodies out.
Rule 2: only this module decides where a message ends, and it decides by the head alone. No later code parses HTTP.
Rule 3: limits count received bytes, and the buffer never exceeds the limits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from serve_bridge.http_server.refusal import Refusal
from serve_bridge.http_server.request_head import RequestHead, check_trailer, read_head
from serve_bridge.http_server.request_line import TOKEN, FramingLimits, check_line_ends, check_request_line

__all__ = ["RequestFramer"]

CHUNK_EXTENSION_BYTES: Final = 256
CHUNK_LINE_BYTES: Final = CHUNK_EXTENSION_BYTES + 17
"""Upper limits, in bytes, for the extension of a chunk and for the whole line before its data."""
MOST_CHUNKS: Final = 64
"""Upper limit for the number of chunks in one piece."""

_QUOTED: Final = rb"\"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+\""
_CHUNK_LINE: Final = re.compile(
    rb"([0-9A-Fa-f]{1,15})((?:;[ \t]*%(token)s(?:[ \t]*=[ \t]*(?:%(token)s|%(quoted)s))?)*)\r\n"
    % {b"token": TOKEN, b"quoted": _QUOTED}
)
_UNPRINTABLE: Final = re.compile(rb"[^ -~\x80-\xff\r\n]")


class RequestFramer:
    """Cuts the bytes of one connection into pieces: a head, then the data of its body, then the next head.

    To serve one request at a time, a caller asks for no piece while `at_head` is true. Pipelined requests then wait as
    bytes. A head with a `refusal` is the last piece.

    Args:
        limits: Upper limits for a request.
        admit: Gets each head before the caller. Returns why the request is not served, or None.
        trusted: Whether forwarding headers of this connection reach the application.

    Attributes:
        at_head: Whether the next piece is the head of a request. Then the request before it is complete.
        body_received: Number of bytes of the current body in all pieces so far, without framing.
    """

    __slots__ = (
        "_admit",
        "_body_left",
        "_buffer",
        "_chunk_left",
        "_fields_left",
        "_header_bytes_left",
        "_limits",
        "_line_end",
        "_scanned",
        "_skipped_blank",
        "_start",
        "_step",
        "_trusted",
        "at_head",
        "body_received",
    )

    def __init__(
        self,
        limits: FramingLimits,
        admit: Callable[[RequestHead], Refusal | None] | None = None,
        *,
        trusted: bool = False,
    ) -> None:
        self._limits = limits
        self._admit = admit
        self._trusted = trusted
        self._buffer: bytes | bytearray = b""
        self._start = 0
        self.body_received: int = 0
        self._expect_head()

    @property
    def buffered(self) -> int:
        """Number of received bytes in no piece so far."""
        return len(self._buffer) - self._start

    @property
    def begins_with_head(self) -> bool:
        """Whether the bytes in no piece so far begin like a HEAD request, whose answer has no body."""
        return self._buffer.startswith(b"HEAD ", self._start)

    @property
    def body_left(self) -> int:
        """Number of missing bytes of the body. For a chunked body, this is the upper limit."""
        return 0 if self.at_head else self._body_left

    def receive(self, data: bytes) -> None:
        """Add received bytes."""
        if self._start == len(self._buffer):
            self._buffer, self._start, self._scanned = data, 0, 0
            return
        if self._start or isinstance(self._buffer, bytes):
            self._scanned = max(0, self._scanned - self._start)
            self._line_end -= self._start if self._line_end else 0
            self._buffer, self._start = bytearray(memoryview(self._buffer)[self._start :]), 0
        self._buffer += data

    def next_piece(self) -> RequestHead | bytes | None:
        """Return a head or data of its body; None: more bytes are needed.

        Data is without framing, and `b""` only at the end of a chunked body. Once `at_head` is true again, the body is
        complete.

        Raises:
            Refusal: The bytes are not an acceptable request. The caller must read no more of this connection.
        """
        if self.at_head:
            return self._head()
        if self._start == len(self._buffer):
            self.discard()  # frees memory, because the rest of the body may take long
            return None
        if self._step == "refused":
            self.refuse()
            return None
        return self._body_piece() if self._step == "length" else self._chunk_piece()

    def _expect_head(self) -> None:
        if self._start == len(self._buffer):
            self.discard()
        self.at_head: bool = True
        self._step = ""
        self._body_left = 0
        self._scanned = self._line_end = 0
        self._skipped_blank = False

    def rest(self) -> bytes:
        """Return all bytes in no piece so far, for another protocol."""
        return self._take(self.buffered)

    def refuse(self) -> None:
        """Return no more pieces. Drop the bytes from now on, and count them as the rest of the body."""
        self.at_head = False
        self._step = "refused"
        self._body_left = max(0, self._body_left - self.buffered)
        self.discard()

    def discard(self) -> None:
        """Drop all bytes in no piece so far, and free the memory of the others."""
        self._buffer, self._start = b"", 0

    def _take(self, count: int) -> bytes:
        piece = bytes(self._buffer[self._start : self._start + count])
        self._start += len(piece)
        return piece

    def _head(self) -> RequestHead | None:
        # RFC 9112 section 2.2: a server should skip an empty line, because some clients send one after a body.
        if not self._skipped_blank and self._buffer.startswith(b"\r\n", self._start):
            self._skipped_blank = True
            self._start += 2
        end = self._buffer.find(b"\r\n\r\n", max(self._start, self._scanned - 3))
        if end < 0:
            self._check_partial_head()
            return None
        raw = bytes(self._buffer[self._start : end + 4])
        head = read_head(raw, self._limits, trusted=self._trusted)
        self._start = end + 4
        self._scanned = self._line_end = 0
        self._skipped_blank = False
        if head.refusal is None and self._admit is not None:
            head.refusal = self._admit(head)
        if head.refusal is not None:
            self._body_left = 0 if head.body_length is None else head.body_length
            self.refuse()
        elif head.body_length != 0:
            self._expect_body(raw, head.body_length)
        return head

    def _expect_body(self, raw: bytes, length: int | None) -> None:
        self.at_head = False
        self.body_received = 0
        if length is not None:
            self._step = "length"
            self._body_left = length
            return
        self._step = "chunk size"
        self._body_left = self._limits.max_body_bytes
        self._fields_left = self._limits.max_headers - raw.count(b"\n") + 2
        self._header_bytes_left = self._limits.max_header_bytes - len(raw) + raw.find(b"\n")

    def _check_partial_head(self) -> None:
        """Refuse as soon as the bytes cannot become a head. Check each byte once."""
        buffer, start, limits = self._buffer, self._start, self._limits
        unseen = max(start, self._scanned)
        if not self._line_end:
            newline = buffer.find(b"\n", unseen)
            if newline < 0:
                if _UNPRINTABLE.search(buffer, unseen):
                    raise Refusal(400, "the request line is malformed")
                if len(buffer) - start > limits.max_request_line_bytes + 1:
                    raise Refusal(414, "the request line is too long")
            else:
                self._line_end = newline + 1
                check_request_line(bytes(buffer[start : newline + 1]), limits)
        # The check stops at the limit. So the same fault is found first, however the network cuts the bytes.
        end = self._line_end + limits.max_header_bytes + 1 if self._line_end else len(buffer)
        check_line_ends(buffer, max(start, unseen - 1), end)
        if self._line_end and len(buffer) - self._line_end > limits.max_header_bytes:
            raise Refusal(431, "the headers are too large")
        self._scanned = len(buffer)

    def _body_piece(self) -> bytes:
        piece = self._take(self._body_left)
        self._body_left -= len(piece)
        self.body_received += len(piece)
        if not self._body_left:
            self._expect_head()
        return piece

    def _chunk_piece(self) -> bytes | None:
        """Return the data received so far, `b""` at the end of the body, or None."""
        while True:
            match self._step:
                case "chunk size":
                    # One by one, chunks of one byte would cost the server far more than the client, so the
                    # framer takes many at once.
                    if whole := self._whole_chunks():
                        return whole
                    if not self._chunk_size():
                        return None
                case "chunk data":
                    piece = self._take(self._chunk_left)
                    self._chunk_left -= len(piece)
                    self.body_received += len(piece)
                    if not self._chunk_left:
                        self._step = "chunk end"
                    return piece or None
                case "chunk end":
                    if not self._chunk_end():
                        return None
                case _:
                    return b"" if self._trailers() else None

    def _line(self, limit: int, refusal: Refusal) -> bytes | None:
        end = self._buffer.find(b"\n", max(self._start, self._scanned), self._start + limit)
        if end >= 0:
            self._scanned = 0
            return self._take(end + 1 - self._start)
        if self.buffered >= limit:
            raise refusal
        self._scanned = len(self._buffer)
        return None

    def _whole_chunks(self) -> bytes:
        """Return the data of the complete chunks in the buffer, at most `MOST_CHUNKS`, as one piece.

        A malformed chunk ends the piece. `_chunk_size` and `_chunk_end` find its fault.
        """
        buffer, end, start, left = self._buffer, len(self._buffer), self._start, self._body_left
        data: list[bytes | bytearray] = []
        while len(data) < MOST_CHUNKS and (found := _CHUNK_LINE.match(buffer, start, start + CHUNK_LINE_BYTES)):
            size, extension = int(found[1], 16), len(found[2])
            data_start, data_end = found.end(), found.end() + size
            left -= size + extension
            if not size or data_end + 2 > end or left < 0 or extension > CHUNK_EXTENSION_BYTES:
                break
            if not buffer.startswith(b"\r\n", data_end):
                break
            data.append(buffer[data_start:data_end])
            self._body_left = left
            start = data_end + 2
        if not data:
            return b""
        self._start, self._scanned = start, 0
        whole = b"".join(data)
        self.body_received += len(whole)
        return whole

    def _chunk_size(self) -> bool:
        """Take the line before a chunk. Return whether it was complete."""
        line = self._line(CHUNK_LINE_BYTES, Refusal(400, "a chunk extension is too long"))
        if line is None:
            return False
        found = _CHUNK_LINE.fullmatch(line)
        if found is None or len(found[2]) > CHUNK_EXTENSION_BYTES:
            raise Refusal(400, "a chunk is malformed")
        self._chunk_left = int(found[1], 16)
        if self._chunk_left == 0:
            self._step = "trailers"
            return True
        self._body_left -= self._chunk_left + len(found[2])
        if self._body_left < 0:
            raise Refusal(413, "the body is too large")
        self._step = "chunk data"
        return True

    def _chunk_end(self) -> bool:
        """Take the line end after a chunk. Return whether it was complete."""
        if self.buffered < 2:
            if self.buffered and not self._buffer.startswith(b"\r", self._start):
                raise Refusal(400, "a chunk is longer than its size")
            return False
        if self._take(2) != b"\r\n":
            raise Refusal(400, "a chunk is longer than its size")
        self._step, self._scanned = "chunk size", 0
        return True

    def _trailers(self) -> bool:
        """Take trailers. Return whether the body has ended."""
        while True:
            line = self._line(max(2, self._header_bytes_left), Refusal(431, "the trailers are too large"))
            if line is None:
                return False
            if line == b"\r\n":
                self._expect_head()
                return True
            self._header_bytes_left -= len(line)
            self._fields_left -= 1
            if self._fields_left < 0:
                raise Refusal(431, "there are too many trailers")
            check_trailer(line)
