"""HTTP header fields: the names with a meaning for the engine, and the check of fields before they are sent.

Rule 1: names are bytes in lower case. The names of an answer are converted once, where the answer enters the engine.
Rule 2: the proxy, the adapters and the replicas use these sets. No other module lists such names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

__all__ = [
    "CALL_METHOD",
    "CREDENTIALS",
    "EXECUTED",
    "FORWARDING",
    "HOP_BY_HOP",
    "MAX_HEADER_BYTES",
    "NO_TRAILERS",
    "REQUEST_ID",
    "SHARD_KEY",
    "SUBPROTOCOL",
    "TELLING",
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
"""Header fields as in ASGI: names in lower case, in order, with duplicates."""

MAX_HEADER_BYTES: Final = 64 * 1024
"""Upper limit for all names and values of one answer together, in bytes."""

HOP_BY_HOP: Final = frozenset(
    b"connection keep-alive proxy proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade".split()
)
"""Fields for one connection only (RFC 9110 section 7.6.1). `Proxy` is not a field of HTTP. It is in this set because
CGI programs would read it as the variable HTTP_PROXY."""

CREDENTIALS: Final = frozenset({b"authorization", b"cookie"})
"""Request fields with credentials, which belong to the web application and its user."""

FORWARDING: Final = (b"x-forwarded-", b"forwarded", b"x-real-ip")
"""Beginnings of the names of request fields about the origin of a request."""

NO_TRAILERS: Final = (
    HOP_BY_HOP
    | CREDENTIALS
    | frozenset(
        b"age cache-control content-encoding content-length content-range content-type date expect expires host "
        b"location max-forwards pragma range retry-after set-cookie vary warning www-authenticate x-request-id".split()
    )
)
"""Fields that are not allowed as trailers (RFC 9110 section 6.5.1). A client needs them before the body, or must not
accept them after it."""

TRAILERS: Final = "http.response.trailers"
"""Name of the ASGI extension for trailers, and of its message."""

CALL_METHOD: Final = b"x-serve-call-method"
"""Request header with the name of the backend's method."""
SHARD_KEY: Final = b"x-serve-shard-key"
"""Request header whose value decides which backend of a split answers."""
TIMEOUT: Final = b"x-serve-timeout-s"
"""Request header with the client's timeout in seconds."""
REQUEST_ID: Final = b"x-request-id"
"""Header of requests and answers with the id of the request."""
EXECUTED: Final = b"x-serve-executed"
"""Whether a request ran that got no answer of user code: "no" if it provably did not start; otherwise "unknown"."""
TELLING: Final = frozenset({502, 503, 504})
"""Statuses of such answers."""

SUBPROTOCOL: Final = b"sec-websocket-protocol"
"""The field by which a WebSocket's client offers subprotocols and its server accepts one."""

_NOT_NOMINATED: Final = frozenset(b"authorization content-length content-type cookie host transfer-encoding".split())
"""Fields that `Connection` cannot remove, because without them a request would have another meaning.

The fields in `FORWARDING` are not removed either. A trusted proxy adds them, and may pass on a `Connection` of its
client, who could otherwise hide its own address.
"""

_TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_CONTROLS: Final = bytes([*range(0x09), *range(0x0A, 0x20), 0x7F])
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")


def fault_of(headers: HeaderList) -> str | None:
    """Return the reason why the *headers* of an answer cannot be sent; None if they can."""
    try:
        names = [name for name, _ in headers]
        values = b"".join([value for _, value in headers])
        all_names = b"".join(names)
    except (TypeError, ValueError):
        return "a header cannot be sent: each is a pair of bytes"
    # Each answer is checked twice. `translate` takes less than half the time of a regular expression.
    if not all(names) or all_names.translate(None, _TOKEN):
        return "a header name cannot be sent: it is empty or has a character that is not allowed in names"
    if len(values.translate(None, _CONTROLS)) != len(values):
        return "a header value cannot be sent: it has a control character, such as a line end"
    if len(values) + len(all_names) > MAX_HEADER_BYTES:
        return f"the headers are longer than {MAX_HEADER_BYTES} bytes"
    lengths = [value for name, value in headers if len(name) == 14 and name.lower() == b"content-length"]
    if len(lengths) > 1 or (lengths and not _LENGTH.fullmatch(lengths[0])):
        return "there must be at most one Content-Length, with digits only"
    return None


def lowered(headers: HeaderList) -> HeaderList:
    """Return *headers* with their names in lower case; *headers* itself if all names are in lower case."""
    names = b"".join([name for name, _ in headers])
    return headers if names == names.lower() else [(name.lower(), value) for name, value in headers]


def length_of(headers: HeaderList) -> int | None:
    """Return the Content-Length in checked *headers*; None if there is none."""
    return next((int(value) for name, value in headers if name == b"content-length"), None)


def nominated(connection_options: Iterable[bytes]) -> frozenset[bytes]:
    """Return the field names in the values of `Connection`. Such fields are for that connection only."""
    options = {option.strip(b" \t").lower() for value in connection_options for option in value.split(b",")}
    return frozenset(option for option in options - _NOT_NOMINATED if not option.startswith(FORWARDING))


def end_to_end(headers: HeaderList, dropped: frozenset[bytes] = HOP_BY_HOP) -> HeaderList:
    """Return *headers* without the fields in *dropped* and the fields named by `Connection`."""
    options = [value for name, value in headers if name == b"connection"]
    if options:
        dropped = dropped | nominated(options)
    return [pair for pair in headers if pair[0] not in dropped]
