"""HTTP header fields: which names decide what passes from one connection to the next, and what a field may hold.

Rule 1: names are bytes in lower case. The names of an answer are lowered once, where the answer enters the engine.
Rule 2: proxy, adapters and replicas read these sets; no other module lists such names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

__all__ = [
    "CALL_METHOD",
    "CREDENTIALS",
    "FORWARDING",
    "HOP_BY_HOP",
    "MAX_HEADER_BYTES",
    "NO_TRAILERS",
    "REQUEST_ID",
    "SHARD_KEY",
    "SUBPROTOCOL",
    "TIMEOUT",
    "TRAILERS",
    "HeaderList",
    "end_to_end",
    "fault_of",
    "length_of",
    "lowered",
    "nominated",
]


HeaderList = list[tuple[bytes, bytes]]
"""Header fields as ASGI has them: lower-case names, order and duplicates kept."""

MAX_HEADER_BYTES: Final = 64 * 1024
"""Upper limit for the names and values of one answer together, in bytes."""

HOP_BY_HOP: Final = frozenset(
    b"connection keep-alive proxy proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade".split()
)
"""Fields that concern one connection only (RFC 9110 section 7.6.1). `Proxy` is not a field of HTTP: CGI programs would
read it as the variable HTTP_PROXY."""

CREDENTIALS: Final = frozenset({b"authorization", b"cookie"})
"""Request fields that belong to the web application and its user."""

FORWARDING: Final = (b"x-forwarded-", b"forwarded", b"x-real-ip")
"""How the names of the request fields begin that tell where a request came from."""

NO_TRAILERS: Final = (
    HOP_BY_HOP
    | CREDENTIALS
    | frozenset(
        b"age cache-control content-encoding content-length content-range content-type date expect expires host "
        b"location max-forwards pragma range retry-after set-cookie vary warning www-authenticate x-request-id".split()
    )
)
"""Fields that a client must know before the body, or that it must not take after it (RFC 9110 section 6.5.1)."""

TRAILERS: Final = "http.response.trailers"
"""The extension of ASGI by which an answer has trailers, and the message with them."""

CALL_METHOD: Final = b"x-serve-call-method"
"""Request header that names the method of the backend."""
SHARD_KEY: Final = b"x-serve-shard-key"
"""Request header whose value decides which backend of a split answers."""
TIMEOUT: Final = b"x-serve-timeout-s"
"""Request header with the seconds that a client grants its request."""
REQUEST_ID: Final = b"x-request-id"
"""Header of requests and answers with the id of the request."""

SUBPROTOCOL: Final = b"sec-websocket-protocol"
"""The field by which a WebSocket's client offers subprotocols and its server accepts one."""

_NOT_NOMINATED: Final = frozenset(b"authorization content-length content-type cookie host transfer-encoding".split())
"""Fields that `Connection` cannot take away: with them a request would become another request."""

_TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_CONTROLS: Final = bytes([*range(0x09), *range(0x0A, 0x20), 0x7F])
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")


def fault_of(headers: HeaderList) -> str | None:
    """Return what makes the *headers* of an answer unfit to be sent; None: nothing does."""
    try:
        names = [name for name, _ in headers]
        values = b"".join([value for _, value in headers])
        all_names = b"".join(names)
    except (TypeError, ValueError):
        return "a header cannot be sent: each is a pair of bytes"
    # Each answer comes here twice; `translate` takes less than half of the time of a regular expression.
    if not all(names) or all_names.translate(None, _TOKEN):
        return "a header name cannot be sent: it is empty or holds a character that a name may not have"
    if len(values.translate(None, _CONTROLS)) != len(values):
        return "a header value cannot be sent: it holds a control character, such as a line end"
    if len(values) + len(all_names) > MAX_HEADER_BYTES:
        return f"the headers are above {MAX_HEADER_BYTES} bytes"
    lengths = [value for name, value in headers if len(name) == 14 and name.lower() == b"content-length"]
    if len(lengths) > 1 or (lengths and not _LENGTH.fullmatch(lengths[0])):
        return "Content-Length must be there at most once, with digits only"
    return None


def lowered(headers: HeaderList) -> HeaderList:
    """Return *headers* with their names in lower case; *headers* itself if they are."""
    names = b"".join([name for name, _ in headers])
    return headers if names == names.lower() else [(name.lower(), value) for name, value in headers]


def length_of(headers: HeaderList) -> int | None:
    """Return the Content-Length in *headers* without a fault; None: there is none."""
    return next((int(value) for name, value in headers if name == b"content-length"), None)


def nominated(connection_options: Iterable[bytes]) -> frozenset[bytes]:
    """Return the names of the fields that the values of `Connection` nominate as belonging to that connection."""
    options = {option.strip(b" \t").lower() for value in connection_options for option in value.split(b",")}
    return frozenset(options - _NOT_NOMINATED)


def end_to_end(headers: HeaderList, dropped: frozenset[bytes] = HOP_BY_HOP) -> HeaderList:
    """Return *headers* without those in *dropped* and those that `Connection` nominates."""
    options = [value for name, value in headers if name == b"connection"]
    if options:
        dropped = dropped | nominated(options)
    return [pair for pair in headers if pair[0] not in dropped]
