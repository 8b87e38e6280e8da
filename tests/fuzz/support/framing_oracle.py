"""What h11, a strict parser of another hand, reads from the bytes of a connection: the judge of the edge's framing."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import quote

import h11

_NO_ASCII = re.compile(rb"[\x80-\xff]")

__all__ = ["Reading", "Request", "read_by_h11"]


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        method: Its method.
        target: Its target as sent.
        body: Its body; of the last request as far as it came.
        is_whole: Whether all of its body came.
    """

    method: bytes
    target: bytes
    body: bytes
    is_whole: bool = True


@dataclass
class Reading:
    """What one connection holds.

    Attributes:
        requests: Its requests, in order, up to the one after which it closes. The last one may be incomplete.
        rest: The bytes that follow a request for a WebSocket; None: there was none.
    """

    requests: list[Request] = field(default_factory=list)
    rest: bytes | None = None


def read_by_h11(data: bytes) -> Reading:
    """Return what h11 reads from *data*, as far as it is well-formed. Upgrades are ignored, but for a WebSocket's."""
    found = Reading()
    left: bytes | None = data
    with suppress(h11.RemoteProtocolError):
        while left:
            left = _read_one(left.removeprefix(b"\r\n"), found)  # RFC 9112 section 2.2 allows one empty line
    return found


def _read_one(data: bytes, found: Reading) -> bytes | None:
    """Add the first request of *data* to *found*; return what follows it, None if the connection closes."""
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=10_000_000)
    line, _, _ = data.partition(b"\r\n")
    path, mark, query = line.partition(b"?")
    query = _NO_ASCII.sub(lambda found: quote(found[0]).encode(), query)  # h11 takes none; the edge does this, too
    server.receive_data(path + mark + query + data[len(line) :])
    request = server.next_event()
    if not isinstance(request, h11.Request):
        return None
    body = b""
    while isinstance(event := server.next_event(), h11.Data):
        body += bytes(event.data)
    is_whole = isinstance(event, h11.EndOfMessage)
    found.requests.append(Request(request.method, request.target, body, is_whole))
    if not is_whole:
        return None
    left = bytes(server.trailing_data[0])
    options = {option.strip().lower() for option in _joined(request, b"connection").split(b",")}
    is_get = request.method == b"GET" and request.http_version == b"1.1"
    if is_get and b"upgrade" in options and _joined(request, b"upgrade").lower() == b"websocket":
        found.rest = left
        return None
    closes = request.method == b"CONNECT" or request.http_version == b"1.0" or b"close" in options
    return None if closes else left


def _joined(request: h11.Request, name: bytes) -> bytes:
    return b",".join(value for given, value in request.headers if given == name)
