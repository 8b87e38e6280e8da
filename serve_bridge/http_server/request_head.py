"""The head of an HTTP/1 request: what it says, read once and strictly.

Rule 1: pure. Bytes in, a `RequestHead` or a `Refusal` out.
Rule 2: strict. Only what RFC 9112 lets a client write is read, so every proxy before this server reads the same.
Rule 3: the head alone decides how the body is framed. Nothing behind this module looks at headers to find that out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

from serve_bridge.http.headers import FORWARDING, HOP_BY_HOP, NO_TRAILERS, nominated

__all__ = [
    "FramingLimits",
    "Refusal",
    "RequestHead",
    "check_line_ends",
    "check_request_line",
    "check_trailer",
    "read_head",
]

METHODS: Final = frozenset(
    b"ACL BIND CHECKOUT COPY DELETE GET HEAD LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR MKCOL MOVE NOTIFY OPTIONS "
    b"PATCH POST PROPFIND PROPPATCH PURGE PUT QUERY REBIND REPORT SEARCH SOURCE SUBSCRIBE TRACE UNBIND UNLINK UNLOCK "
    b"UNSUBSCRIBE".split()
)
"""The methods that are served: those of the HTTP method registry that clients use. CONNECT is for tunnels only."""

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_AUTHORITY: Final = rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(?::[0-9]{1,5})?"
_PATH: Final = rb"/[!\"$->@-~]*+"
_QUERY: Final = rb"\?([!\"$-~\x80-\xff]*+)"
_REQUEST_LINE: Final = re.compile(
    rb"(%(token)s) (?:(?i:https?)://(%(authority)s))?((?:%(path)s)?|\*)(?:%(query)s)? HTTP/([0-9]\.[0-9])\r\n"
    % {b"token": _TOKEN, b"authority": _AUTHORITY, b"path": _PATH, b"query": _QUERY}
)
_CONNECT: Final = re.compile(rb"CONNECT [!-~]+ HTTP/1\.[01]\r\n")
_STRAY_LINE_END: Final = re.compile(rb"(?<!\r)\n|\r[^\n]|\0")
_FIELDS: Final = re.compile(rb"(?:%s:[\t -~\x80-\xff]*+\r\n)*+\r\n" % _TOKEN)
_HOST: Final = re.compile(_AUTHORITY)
_LENGTH: Final = re.compile(rb"0|[1-9][0-9]{0,17}")
_BROKEN_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})|%00")
_TAKES_TRAILERS: Final = re.compile(rb"(?:^|,)[ \t]*trailers[ \t]*(?:[;,]|$)", re.IGNORECASE)
"""In a TE header (RFC 9110 section 10.1.4)."""
_WEBSOCKET_VERSION: Final = (b"sec-websocket-version", b"13")
_WEBSOCKET_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{22}==")
_NO_ASCII: Final = re.compile(rb"[\x80-\xff]+")

_FRAMING: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect"})
"""Fields that are there once, or not at all."""
_NAMED: Final = HOP_BY_HOP | _FRAMING
_DROPPED: Final = HOP_BY_HOP - {b"transfer-encoding"}
"""Fields of the connection. ASGI servers leave Transfer-Encoding to the application, so this one does too."""


class Refusal(Exception):
    """The request is not served, and the connection closes after the answer.

    Attributes:
        status: HTTP status of the answer.
        reason: One clause for the client.
        headers: Header fields that belong to this status, such as Allow.
    """

    def __init__(self, status: int, reason: str, *, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        super().__init__(status, reason)
        self.status, self.reason, self.headers = status, reason, headers


@dataclass(frozen=True, slots=True)
class FramingLimits:
    """What a connection may send, as in `HTTPOptions`; sizes in bytes."""

    max_request_line_bytes: int = 8 * 1024
    max_header_bytes: int = 64 * 1024
    max_headers: int = 100
    max_body_bytes: int = 16 * 1024 * 1024


@dataclass(slots=True)
class RequestHead:
    """The head of one request.

    Attributes:
        method: One of `METHODS`, as text.
        version: "1.0" or "1.1".
        target: What is asked for: a path, or `b"*"`; without the query.
        query: The query in ASCII; bytes that are not are percent-encoded.
        headers: The fields for the application: lower-case names, order and duplicates kept, without those of the
            connection and without names that hold an underscore. A WebSocket keeps Connection and Upgrade.
        keep_alive: Whether the client may send another request on this connection.
        body_length: Bytes of the body that follows; 0: there is none; None: it comes in chunks.
        expects_continue: Whether the client holds its body back until it is asked for it.
        takes_trailers: Whether the client reads trailers of an answer.
        websocket: Whether the client asks for a WebSocket, and nothing but frames follows once it has one.
        host: The value of Host; empty: there is none, as HTTP/1.0 allows.
        refusal: Why the request is not served although its head can be read; None: it is. Its body is never read. A
            refused request for a WebSocket counts as one of HTTP if the request itself is wrong.
    """

    method: str
    version: str
    target: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    keep_alive: bool
    body_length: int | None = 0
    expects_continue: bool = False
    takes_trailers: bool = False
    websocket: bool = False
    host: bytes = b""
    refusal: Refusal | None = None

    @property
    def path(self) -> str:
        """The target with its escapes decoded."""
        path = self.target.decode("ascii")
        return unquote(path) if "%" in path else path


def check_request_line(line: bytes, limits: FramingLimits) -> tuple[bytes, bytes | None, bytes, bytes, bytes]:
    """Return method, authority of an absolute target, path, query and version of a request line.

    Raises:
        Refusal: It is too long, malformed, of another version or method, or its path is no path.
    """
    if len(line) - 2 > limits.max_request_line_bytes:
        raise Refusal(414, "the request line is too long")
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:
        if _CONNECT.fullmatch(line):
            raise Refusal(405, "CONNECT is not served here")
        raise Refusal(400, "the request line is malformed")
    method, authority, path, query, version = found.groups()
    if version != b"1.1" and version != b"1.0":
        raise Refusal(505, "only HTTP/1.1 and HTTP/1.0 are served")
    if method not in METHODS:
        if method == b"CONNECT":
            raise Refusal(405, "CONNECT is not served here")
        raise Refusal(501, "the method is unknown")
    if not path:
        if authority is None:
            raise Refusal(400, "the request line is malformed")
        path = b"*" if method == b"OPTIONS" and query is None else b"/"  # RFC 9112 section 3.2.4
    elif path == b"*" and (method != b"OPTIONS" or authority or query is not None):
        raise Refusal(400, "the target is no path")
    if b"%" in path and _BROKEN_ESCAPE.search(path):
        raise Refusal(400, "the path has a broken escape")
    if query is None:
        query = b""
    elif not query.isascii():
        query = _NO_ASCII.sub(lambda found: quote(found[0]).encode(), query)
    return method, authority, path, query, version


def check_line_ends(data: bytes | bytearray, start: int, end: int) -> None:
    """Check that each line of *data* between *start* and *end* ends in CR LF, and that no NUL is there.

    Raises:
        Refusal: One does not.
    """
    if _STRAY_LINE_END.search(data, start, end):
        raise Refusal(400, "a line ends in something else than CR LF")


def read_head(head: bytes, limits: FramingLimits, *, trusted: bool = False) -> RequestHead:
    """Return what *head* says, which ends with its empty line.

    Args:
        head: Its bytes.
        limits: What it may hold.
        trusted: Whether its forwarding headers reach the application.

    Raises:
        Refusal: The head breaks a limit, is malformed, or leaves open its host or the end of its body. A refusal
            that leaves the head readable is its attribute instead.
    """
    line_end = head.find(b"\n") + 1
    method, authority, target, query, version = check_request_line(head[:line_end], limits)
    if len(head) - line_end > limits.max_header_bytes or head.count(b"\n") - 2 > limits.max_headers:
        check_line_ends(head, line_end - 1, line_end + limits.max_header_bytes + 1)
        raise Refusal(431, "the headers are too large or too many")
    if not _FIELDS.fullmatch(head, line_end):
        raise Refusal(400, "a header is malformed")
    headers: list[tuple[bytes, bytes]] = []
    named: dict[bytes, bytes] = {}
    for line in head[line_end:-4].split(b"\r\n") if len(head) > line_end + 2 else ():
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if name in _NAMED:
            if name not in named:
                named[name] = value
            elif name in _FRAMING:
                raise Refusal(400, "a header that must be unique is there twice")
            else:
                named[name] += b"," + value
            if name in _DROPPED:
                continue
        elif b"_" in name or (not trusted and name.startswith(FORWARDING)):  # WSGI reads "_" as "-"
            continue
        headers.append((name, value))
    _check_host(named.get(b"host"), authority, required=version == b"1.1")
    is_current = version == b"1.1"
    read = RequestHead(method.decode(), "1.1" if is_current else "1.0", target, query, headers, keep_alive=is_current)
    read.host = named.get(b"host", b"")
    if len(named) > 1 or b"host" not in named:
        _read_named(read, named, limits)
    return read


def _read_named(head: RequestHead, named: dict[bytes, bytes], limits: FramingLimits) -> None:
    """Read the fields that say something about the message and its connection."""
    head.body_length = _body_length(named, head.version)
    if named.get(b"expect", b"100-continue").lower() != b"100-continue":
        head.refusal = Refusal(417, "only 100-continue can be expected")
    elif (head.body_length or 0) > limits.max_body_bytes:
        head.refusal = Refusal(413, "the body is too large")
    is_current = head.version == "1.1"
    head.expects_continue = is_current and b"expect" in named
    head.takes_trailers = is_current and b"te" in named and _TAKES_TRAILERS.search(named[b"te"]) is not None
    connection = named.get(b"connection")
    if connection is None:
        return
    options = {option.strip(b" \t") for option in connection.lower().split(b",")}
    head.keep_alive = is_current and b"close" not in options
    if b"upgrade" in options and named.get(b"upgrade", b"").lower() == b"websocket":
        fault = _fault_of_handshake(head)
        if fault is None:
            head.websocket = True
            head.headers += [(name, named[name]) for name in (b"connection", b"upgrade")]
            return
        head.refusal = fault
    listed = nominated([connection])
    if any(name in listed for name, _ in head.headers):
        head.headers = [pair for pair in head.headers if pair[0] not in listed]


def _fault_of_handshake(head: RequestHead) -> Refusal | None:
    """Return why a request for a WebSocket breaks RFC 6455 section 4.1; None: it does not."""
    if head.version != "1.1" or head.method != "GET":
        return Refusal(400, "a WebSocket needs GET and HTTP/1.1")
    if head.body_length != 0:
        return Refusal(400, "the handshake of a WebSocket has no body")
    if [value for name, value in head.headers if name == _WEBSOCKET_VERSION[0]] != [_WEBSOCKET_VERSION[1]]:
        return Refusal(426, "only version 13 of WebSocket is spoken here", headers=[_WEBSOCKET_VERSION])
    keys = [value for name, value in head.headers if name == b"sec-websocket-key"]
    if len(keys) != 1 or not _WEBSOCKET_KEY.fullmatch(keys[0]):
        return Refusal(400, "the handshake of a WebSocket needs one Sec-WebSocket-Key, which is 16 bytes in base64")
    return None


def _check_host(host: bytes | None, authority: bytes | None, *, required: bool) -> None:
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
    if not _FIELDS.fullmatch(line + b"\r\n") or line == b"\r\n":
        raise Refusal(400, "a trailer is malformed")
    name = line.partition(b":")[0].lower()
    if name in NO_TRAILERS or name.startswith(FORWARDING):
        raise Refusal(400, "a trailer holds a field that must be a header")


def _body_length(named: dict[bytes, bytes], version: str) -> int | None:
    if b"transfer-encoding" in named:
        _check_chunked(named, version)
        return None
    value = named.get(b"content-length", b"0")
    if not _LENGTH.fullmatch(value):
        raise Refusal(400, "the content-length is malformed")
    return int(value)


def _check_chunked(named: dict[bytes, bytes], version: str) -> None:
    if b"content-length" in named:
        raise Refusal(400, "there are both content-length and transfer-encoding")
    if version == "1.0":
        raise Refusal(400, "HTTP/1.0 has no transfer-encoding")
    if named[b"transfer-encoding"].lower() != b"chunked":
        raise Refusal(501, "the only transfer-encoding served is chunked")
