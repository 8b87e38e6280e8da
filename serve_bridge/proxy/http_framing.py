"""Where each HTTP/1 request begins and ends in the bytes of a connection, and what is refused unparsed.

Rule 1: sans-I/O and without a clock: bytes in, pieces for a parser out.
Rule 2: strict. Only what RFC 9112 lets a sender write passes, so that the parser behind and proxies before it
read a piece in one way only. Chunked bodies leave in canonical form, without extensions and trailers.
Rule 3: limits count received bytes, and no more than the limits is ever buffered.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["FramingLimits", "Refusal", "RequestFramer"]

CHUNKED: Final = -1
"""Body length of a request whose body is chunked."""

CHUNK_EXTENSION_BYTES: Final = 256

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_AUTHORITY = rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(?::[0-9]{1,5})?"
_REQUEST_LINE = re.compile(
    rb"(" + _TOKEN + rb") (?:(?i:https?)://(" + _AUTHORITY + rb"))?(/[!\"$-~]*+|\*) HTTP/([0-9]\.[0-9])\r\n"
)
_CONNECT = re.compile(rb"CONNECT [!-~]+ HTTP/1\.[01]\r\n")
_FIELDS = re.compile(rb"(?:" + _TOKEN + rb":[\t -~\x80-\xff]*+\r\n)*+\r\n")
_PLAIN_HEAD = re.compile(
    rb"[A-Z]++ /[!\"$&-~]*+ HTTP/1\.1\r\nHost: %(authority)s\r\n"
    rb"(?:(?!(?i:host|content-length|transfer-encoding|expect):)%(token)s:[\t -~\x80-\xff]*+\r\n)*+\r\n"
    % {b"authority": _AUTHORITY, b"token": _TOKEN}
)
"""Most heads: no escapes, Host first, no body. Only a shorter way to what `body_length` finds without it."""
_FRAMING_FIELD = re.compile(rb"\n(?i:(host|content-length|transfer-encoding|expect)):([^\r]*)")
_TRAILER_NAME = re.compile(rb"(" + _TOKEN + rb"):")
_HOST = re.compile(_AUTHORITY)
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,17}")
_CHUNK_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,15})"
    rb"((?:[ \t]*;[ \t]*%(token)s(?:[ \t]*=[ \t]*(?:%(token)s|\"[\t !#-\[\]-~]*+\"))?)*)\r\n" % {b"token": _TOKEN}
)
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})|%00")
_STRAY_LINE_END = re.compile(rb"(?<!\r)\n|\r[^\n]|\0")
_UNPRINTABLE = re.compile(rb"[^ -~\r\n]")

_HOST_ALONE: Final = frozenset({b"host"})
_TRAILERS_REFUSED: Final = frozenset(
    b"authorization connection content-encoding content-length content-range content-type cookie expect "
    b"forwarded host keep-alive te trailer transfer-encoding upgrade".split()
)


class Refusal(Exception):
    """The request is not served, and the connection closes after the answer.

    Attributes:
        status: HTTP status of the answer.
        reason: One clause for the client; holds nothing of the request.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True, slots=True)
class FramingLimits:
    """What a connection may send, as in `HTTPOptions`; sizes in bytes."""

    max_request_line_bytes: int = 8 * 1024
    max_header_bytes: int = 64 * 1024
    max_headers: int = 100
    max_body_bytes: int = 16 * 1024 * 1024


class RequestFramer:
    """Cuts the bytes of one connection into pieces: a head, then the pieces of its body, then the next head.

    A caller that asks for no piece while `at_head` serves one request at a time; what is pipelined waits. Before a head
    that announces a body is handed out *admit* is called; it refuses the request by raising `Refusal`.

    Attributes:
        at_head: The next piece is the head of a request; the one before is complete.
        body_received: Bytes of the current body handed out, without framing.
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
        "at_head",
        "body_received",
    )

    def __init__(self, limits: FramingLimits, admit: Callable[[], None] | None = None) -> None:
        self._limits = limits
        self._admit = admit
        self._buffer: bytes | bytearray = b""
        self._start = self.body_received = 0
        self._expect_head()

    @property
    def buffered(self) -> int:
        """Bytes received and not yet handed out."""
        return len(self._buffer) - self._start

    @property
    def body_left(self) -> int:
        """Bytes that the body may still have: exact with Content-Length, at most the limit when chunked."""
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

    def next_piece(self) -> bytes | None:
        """Return the next complete piece for the parser, or None until more bytes come.

        Raises:
            Refusal: The bytes are no acceptable request; nothing of this connection may be read any more.
        """
        if self.at_head:
            return self._head()
        if self._start == len(self._buffer):
            self.discard()  # the rest of the body may be long in coming
            return None
        match self._step:
            case "length":
                return self._body_piece()
            case "chunk size":
                return self._chunk_size()
            case "chunk data":
                return self._chunk_data()
            case _:
                return self._trailers()

    def _expect_head(self) -> None:
        if self._start == len(self._buffer):
            self.discard()
        self.at_head = True
        self._step = ""
        self._scanned = self._line_end = 0
        self._skipped_blank = False

    def rest(self) -> bytes:
        """Take all bytes not yet handed out, for another protocol."""
        return self._take(self.buffered)

    def discard(self) -> None:
        """Forget all bytes not yet handed out, and free the memory of those that were."""
        self._buffer, self._start = b"", 0

    def _take(self, count: int) -> bytes:
        piece = bytes(self._buffer[self._start : self._start + count])
        self._start += len(piece)
        return piece

    def _head(self) -> bytes | None:
        # RFC 9112 section 2.2: some clients send an empty line after a body.
        if not self._skipped_blank and self._buffer.startswith(b"\r\n", self._start):
            self._skipped_blank = True
            self._start += 2
        end = self._buffer.find(b"\r\n\r\n", max(self._start, self._scanned - 3))
        if end < 0:
            self._check_partial_head()
            return None
        head = self._take(end + 4 - self._start)
        self._scanned = self._line_end = 0
        self._skipped_blank = False
        length = body_length(head, self._limits)
        if length:
            if self._admit is not None:
                self._admit()
            self._expect_body(head, length)
        return head

    def _expect_body(self, head: bytes, length: int) -> None:
        self.at_head = False
        self.body_received = 0
        if length != CHUNKED:
            self._step = "length"
            self._body_left = length
            return
        self._step = "chunk size"
        self._body_left = self._limits.max_body_bytes
        self._fields_left = self._limits.max_headers - head.count(b"\n") + 2
        self._header_bytes_left = self._limits.max_header_bytes - len(head) + head.find(b"\n")

    def _check_partial_head(self) -> None:
        """Refuse as soon as the bytes cannot become a head; look at each byte once."""
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
        if _STRAY_LINE_END.search(buffer, max(start, unseen - 1)):
            raise Refusal(400, "a line ends in something else than CR LF")
        if self._line_end and len(buffer) - self._line_end > limits.max_header_bytes:
            raise Refusal(431, "the headers are too large")
        self._scanned = len(buffer)

    def _body_piece(self) -> bytes | None:
        piece = self._take(self._body_left)
        self._body_left -= len(piece)
        self.body_received += len(piece)
        if not self._body_left:
            self._expect_head()
        return piece or None

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
        """Return the data of the good chunks that are here in one piece, framed as one; b"" if there is none."""
        buffer, end, start, left = self._buffer, len(self._buffer), self._start, self._body_left
        data: list[bytes | bytearray] = []
        while found := _CHUNK_LINE.match(buffer, start):
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
        return b"%x\r\n%b\r\n" % (len(whole), whole)

    def _chunk_size(self) -> bytes | None:
        # One by one they would cost what no client pays for: a byte a chunk is five times as much to send.
        if whole := self._whole_chunks():
            return whole
        line = self._line(CHUNK_EXTENSION_BYTES + 17, Refusal(400, "a chunk extension is too long"))
        if line is None:
            return None
        found = _CHUNK_LINE.fullmatch(line)
        if found is None or len(found[2]) > CHUNK_EXTENSION_BYTES:
            raise Refusal(400, "a chunk is malformed")
        self._chunk_left = int(found[1], 16)
        if self._chunk_left == 0:
            self._step = "trailers"
            return self._trailers()
        self._body_left -= self._chunk_left + len(found[2])
        if self._body_left < 0:
            raise Refusal(413, "the body is too large")
        self._step = "chunk data"
        return b"%x\r\n" % self._chunk_left

    def _chunk_data(self) -> bytes | None:
        if self._chunk_left:
            piece = self._take(self._chunk_left)
            self._chunk_left -= len(piece)
            self.body_received += len(piece)
            return piece or None
        if self.buffered < 2:
            if self.buffered and not self._buffer.startswith(b"\r", self._start):
                raise Refusal(400, "a chunk is longer than its size")
            return None
        if self._take(2) != b"\r\n":
            raise Refusal(400, "a chunk is longer than its size")
        self._step, self._scanned = "chunk size", 0
        return b"\r\n"

    def _trailers(self) -> bytes | None:
        while True:
            line = self._line(max(2, self._header_bytes_left), Refusal(431, "the trailers are too large"))
            if line is None:
                return None
            if line == b"\r\n":
                self._expect_head()
                return b"0\r\n\r\n"
            self._header_bytes_left -= len(line)
            self._fields_left -= 1
            if self._fields_left < 0:
                raise Refusal(431, "there are too many trailers")
            check_trailer(line)


def check_request_line(line: bytes, limits: FramingLimits) -> tuple[bytes, bytes | None, bytes, bytes]:
    """Return method, authority of an absolute target, path with query, and version of a request line.

    Raises:
        Refusal: It is too long, malformed, of another version, a CONNECT, or its path is no path.
    """
    if len(line) - 2 > limits.max_request_line_bytes:
        raise Refusal(414, "the request line is too long")
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:
        if _CONNECT.fullmatch(line):
            raise Refusal(405, "CONNECT is not served here")
        raise Refusal(400, "the request line is malformed")
    method, authority, target, version = found.groups()
    if version != b"1.1" and version != b"1.0":
        raise Refusal(505, "only HTTP/1.1 and HTTP/1.0 are served")
    if target == b"*" and (method != b"OPTIONS" or authority):
        raise Refusal(400, "the target is no path")
    if b"%" in target and _BROKEN_ESCAPE.search(target.partition(b"?")[0]):
        raise Refusal(400, "the path has a broken escape")
    return method, authority, target, version


def body_length(head: bytes, limits: FramingLimits) -> int:
    """Return the length of the body that follows *head*, or `CHUNKED`.

    Raises:
        Refusal: The head breaks a limit, is malformed, or leaves open its host or the end of its body.
    """
    most = min(limits.max_request_line_bytes, limits.max_header_bytes)
    if len(head) <= most and head.count(b"\n") - 2 <= limits.max_headers and _PLAIN_HEAD.fullmatch(head):
        return 0
    line_end = head.find(b"\n") + 1
    parts = check_request_line(head[:line_end], limits)
    if len(head) - line_end > limits.max_header_bytes or head.count(b"\n") - 2 > limits.max_headers:
        raise Refusal(431, "the headers are too large or too many")
    if not _FIELDS.fullmatch(head, line_end):
        raise Refusal(400, "a header is malformed")
    fields = _FRAMING_FIELD.findall(head, line_end - 1)
    framing = {name.lower(): value.strip(b" \t") for name, value in fields}
    if len(framing) != len(fields):
        raise Refusal(400, "a header that must be unique is there twice")
    _, authority, _, version = parts
    check_host(framing.get(b"host"), authority, required=version == b"1.1")
    return 0 if framing.keys() == _HOST_ALONE else _length(framing, version, limits)


def check_host(host: bytes | None, authority: bytes | None, *, required: bool) -> None:
    """Check the Host header against RFC 9112 section 3.2.

    Raises:
        Refusal: It is missing, malformed, or differs from the authority of an absolute target.
    """
    if host is None:
        if required or authority is not None:
            raise Refusal(400, "there is no host header")
    elif not _HOST.fullmatch(host):
        raise Refusal(400, "the host header is malformed")
    elif authority is not None and authority.lower() != host.lower():
        raise Refusal(400, "the host header is not the host of the target")


def check_trailer(line: bytes) -> None:
    """Check one trailer line; trailers are counted and dropped, never served.

    Raises:
        Refusal: It is malformed, or a field that RFC 9110 section 6.5.1 keeps out of trailers.
    """
    found = _TRAILER_NAME.match(line)
    if found is None or not _FIELDS.fullmatch(line + b"\r\n"):
        raise Refusal(400, "a trailer is malformed")
    name = found[1].lower()
    if name in _TRAILERS_REFUSED or name.startswith(b"x-forwarded-"):
        raise Refusal(400, "a trailer holds a field that must be a header")


def _length(framing: dict[bytes, bytes], version: bytes, limits: FramingLimits) -> int:
    if framing.get(b"expect", b"100-continue").lower() != b"100-continue":
        raise Refusal(417, "only 100-continue can be expected")
    if b"transfer-encoding" in framing:
        return _chunked(framing, version)
    value = framing.get(b"content-length", b"0")
    if not _LENGTH.fullmatch(value):
        raise Refusal(400, "the content-length is malformed")
    length = int(value)
    if length > limits.max_body_bytes:
        raise Refusal(413, "the body is too large")
    return length


def _chunked(framing: dict[bytes, bytes], version: bytes) -> int:
    if b"content-length" in framing:
        raise Refusal(400, "there are both content-length and transfer-encoding")
    if version == b"1.0":
        raise Refusal(400, "HTTP/1.0 has no transfer-encoding")
    if framing[b"transfer-encoding"].lower() != b"chunked":
        raise Refusal(501, "the only transfer-encoding served is chunked")
    return CHUNKED
