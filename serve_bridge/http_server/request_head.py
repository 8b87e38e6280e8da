"""The head of an HTTP/1 request, parsed once and strictly.

Rule 1: pure. Bytes in, a `RequestHead` or a `Refusal` out.
Rule 2: strict. A head must follow RFC 9112, so every proxy before this server reads the same.
Rule 3: the head alone decides the framing of the body. No later code reads headers for that purpose.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from serve_bridge.http.headers import FORWARDING, HOP_BY_HOP, NO_TRAILERS, nominated
from serve_bridge.http_server.refusal import Refusal
from serve_bridge.http_server.request_line import AUTHORITY, TOKEN, FramingLimits, check_line_ends, check_request_line

__all__ = [
    "RequestHead",
    "check_trailer",
    "read_head",
]


_FIELDS: Final = re.compile(rb"(?:%s:[\t -~\x80-\xff]*+\r\n)*+\r\n" % TOKEN)
_HOST: Final = re.compile(AUTHORITY)
_LENGTH: Final = re.compile(rb"0|[1-9][0-9]{0,17}")
_TAKES_TRAILERS: Final = re.compile(rb"(?:^|,)[ \t]*trailers[ \t]*(?:[;,]|$)", re.IGNORECASE)
"""Finds `trailers` in a TE header (RFC 9110 section 10.1.4)."""
_WEBSOCKET_VERSION: Final = (b"sec-websocket-version", b"13")
_WEBSOCKET_LISTS: Final = frozenset({b"sec-websocket-extensions", b"sec-websocket-protocol"})
_WEBSOCKET_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{22}==")

MOST_OPTIONS: Final = 100
"""Upper limit for the options, extensions and subprotocols in a handshake together.

`websockets` takes 1 to 3 us for each of them, and a head has room for 30,000.
"""

_FRAMING: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect"})
"""Fields of which a head may hold only one each."""
_NAMED: Final = HOP_BY_HOP | _FRAMING
_DROPPED: Final = HOP_BY_HOP - {b"transfer-encoding"}
"""Fields of the connection, which do not reach the application.

Transfer-Encoding does: other ASGI servers pass it on, too.
"""


@dataclass(slots=True)
class RequestHead:
    """The head of one request.

    Attributes:
        method: One of `METHODS`, as text.
        version: "1.0" or "1.1".
        target: The requested path without its query, or `b"*"`.
        query: The query in ASCII. Other bytes are percent-encoded.
        headers: The fields for the application: names in lower case, order and duplicates kept. Fields of the
            connection, and names with an underscore, are left out. A WebSocket keeps Connection and Upgrade.
        keep_alive: Whether the client may send another request on this connection.
        body_length: Number of bytes of the body; 0: no body; None: the body is chunked.
        expects_continue: Whether the client holds its body back until the server asks for it.
        takes_trailers: Whether the client reads trailers of an answer.
        websocket: Whether the client asks for a WebSocket.
        host: The value of Host; empty: the head has none, which HTTP/1.0 allows.
        refusal: The reason why the request is not served although its head is readable; None: it is served. The server
            never reads the body of a refused request. If the handshake of a WebSocket is malformed, *websocket* is
            False.
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
        """The target with decoded escapes."""
        path = self.target.decode("ascii")
        return unquote(path) if "%" in path else path


def read_head(head: bytes, limits: FramingLimits, *, trusted: bool = False) -> RequestHead:
    """Parse one head.

    Args:
        head: The bytes of the head, with the empty line at its end.
        limits: Upper limits for the head and the body.
        trusted: Whether forwarding headers reach the application.

    Raises:
        Refusal: The head exceeds a limit or is malformed, or its host or the end of its body is ambiguous. If the head
            is readable all the same, the refusal is its attribute instead.
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
                raise Refusal(400, "a header that must be unique appears twice")
            else:
                named[name] += b"," + value
            if name in _DROPPED:
                continue
        elif b"_" in name or (not trusted and name.startswith(FORWARDING)):  # WSGI cannot tell "_" from "-"
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
    """Read the fields about the message and its connection."""
    head.body_length = _body_length(named, head.version)
    expected = named.get(b"expect", b"").lower()
    if expected not in (b"", b"100-continue"):
        head.refusal = Refusal(417, "only 100-continue can be expected")
    elif (head.body_length or 0) > limits.max_body_bytes:
        head.refusal = Refusal(413, "the body is too large")
    is_current = head.version == "1.1"
    head.expects_continue = is_current and bool(expected)
    head.takes_trailers = is_current and b"te" in named and _TAKES_TRAILERS.search(named[b"te"]) is not None
    connection = named.get(b"connection")
    if connection is None:
        return
    options = {option.strip(b" \t") for option in connection.lower().split(b",")}
    head.keep_alive = is_current and b"close" not in options
    if b"upgrade" in options and named.get(b"upgrade", b"").lower() == b"websocket":
        fault = _fault_of_handshake(head, connection)
        if fault is None:
            head.websocket = True
            head.headers += [(name, named[name]) for name in (b"connection", b"upgrade")]
            return
        head.refusal = fault
    listed = nominated([connection])
    if any(name in listed for name, _ in head.headers):
        head.headers = [pair for pair in head.headers if pair[0] not in listed]


def _fault_of_handshake(head: RequestHead, connection: bytes) -> Refusal | None:
    """Return why a request for a WebSocket is not served: it violates RFC 6455 section 4.1, or is too long.

    None: it is served. *connection* is the value of its Connection header.
    """
    if head.version != "1.1" or head.method != "GET":
        return Refusal(400, "a WebSocket needs GET and HTTP/1.1")
    if head.body_length != 0:
        return Refusal(400, "the handshake of a WebSocket has no body")
    if [value for name, value in head.headers if name == _WEBSOCKET_VERSION[0]] != [_WEBSOCKET_VERSION[1]]:
        return Refusal(426, "only version 13 of WebSocket is spoken here", headers=[_WEBSOCKET_VERSION])
    keys = [value for name, value in head.headers if name == b"sec-websocket-key"]
    if len(keys) != 1 or not _WEBSOCKET_KEY.fullmatch(keys[0]):
        return Refusal(400, "the handshake of a WebSocket needs one Sec-WebSocket-Key, which is 16 bytes in base64")
    lists = [connection, *(value for name, value in head.headers if name in _WEBSOCKET_LISTS)]
    if sum(value.count(mark) for value in lists for mark in (b",", b";", b"\\")) > MOST_OPTIONS:
        return Refusal(431, "the handshake of a WebSocket has too many options, extensions or subprotocols")
    return None


def _check_host(host: bytes | None, authority: bytes | None, *, required: bool) -> None:
    """Check the Host header against RFC 9112 section 3.2.

    Raises:
        Refusal: The header is missing or malformed, or differs from the authority of an absolute target.
    """
    if host is None:
        if required or authority is not None:
            raise Refusal(400, "the host header is missing")
    elif not _HOST.fullmatch(host):
        raise Refusal(400, "the host header is malformed")
    elif authority is not None and authority.lower() != host.lower():
        raise Refusal(400, "the host header is not the host of the target")


def check_trailer(line: bytes) -> None:
    """Check one trailer line. The server counts trailers and drops them.

    Raises:
        Refusal: The line is malformed, or RFC 9110 section 6.5.1 forbids its field in trailers.
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
        raise Refusal(400, "content-length and transfer-encoding exclude each other")
    if version == "1.0":
        raise Refusal(400, "HTTP/1.0 has no transfer-encoding")
    if named[b"transfer-encoding"].lower() != b"chunked":
        raise Refusal(501, "the only transfer-encoding served is chunked")
