"""The first line of an HTTP/1 request, and the grammar shared with the rest of the head.

Rule 1: pure. Bytes in, parts of the line or a `Refusal` out.
Rule 2: strict. A line must follow RFC 9112, so every proxy before this server reads the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from serve_bridge.http.paths import ascii_query
from serve_bridge.http_server.refusal import Refusal

__all__ = ["AUTHORITY", "TOKEN", "FramingLimits", "check_line_ends", "check_request_line"]

METHODS: Final = frozenset(
    b"ACL BIND CHECKOUT COPY DELETE GET HEAD LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR MKCOL MOVE NOTIFY OPTIONS "
    b"PATCH POST PROPFIND PROPPATCH PURGE PUT QUERY REBIND REPORT SEARCH SOURCE SUBSCRIBE TRACE UNBIND UNLINK UNLOCK "
    b"UNSUBSCRIBE".split()
)
"""Accepted methods: the registered methods of HTTP in use by clients.

CONNECT is not among them, because only a tunnel can serve it.
"""

TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
AUTHORITY: Final = rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(?::[0-9]{1,5})?"
_PATH: Final = rb"/[!\"$->@-~]*+"
_QUERY: Final = rb"\?([!\"$-~\x80-\xff]*+)"
_REQUEST_LINE: Final = re.compile(
    rb"(%(token)s) (?:(?i:https?)://(%(authority)s))?((?:%(path)s)?|\*)(?:%(query)s)? HTTP/([0-9]\.[0-9])\r\n"
    % {b"token": TOKEN, b"authority": AUTHORITY, b"path": _PATH, b"query": _QUERY}
)
_CONNECT: Final = re.compile(rb"CONNECT [!-~]+ HTTP/1\.[01]\r\n")
_STRAY_LINE_END: Final = re.compile(rb"(?<!\r)\n|\r[^\n]|\0")
_BROKEN_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})|%00")


@dataclass(frozen=True, slots=True)
class FramingLimits:
    """Upper limits for a request, as in `HTTPOptions`."""

    max_request_line_bytes: int = 8 * 1024
    max_header_bytes: int = 64 * 1024
    max_headers: int = 100
    max_body_bytes: int = 16 * 1024 * 1024


def check_request_line(line: bytes, limits: FramingLimits) -> tuple[bytes, bytes | None, bytes, bytes, bytes]:
    """Return method, authority of an absolute target, path, query and version of a request line.

    Raises:
        Refusal: The line is too long or malformed, or the version, the method or the path is not supported.
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
        raise Refusal(400, "the target is not a path")
    if b"%" in path and _BROKEN_ESCAPE.search(path):
        raise Refusal(400, "the path has a broken escape")
    return method, authority, path, ascii_query(query or b""), version


def check_line_ends(data: bytes | bytearray, start: int, end: int) -> None:
    """Check the line ends of *data* between *start* and *end*: always CR LF, and no NUL anywhere.

    Raises:
        Refusal: A line ends in another way, or a byte is NUL.
    """
    if _STRAY_LINE_END.search(data, start, end):
        raise Refusal(400, "a line does not end in CR LF")
