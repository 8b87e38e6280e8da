"""Names of HTTP header fields that decide what passes from one connection to the next: one set of each kind.

Rule 1: names are bytes in lower case.
Rule 2: proxy, adapters and replicas read these sets; no other module lists such names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

__all__ = ["CREDENTIALS", "FORWARDING", "HOP_BY_HOP", "NO_TRAILERS", "end_to_end", "nominated"]

HOP_BY_HOP: Final = frozenset(
    b"connection keep-alive proxy proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade".split()
)
"""Fields that concern one connection only (RFC 9110 section 7.6.1). `Proxy` is not a field of HTTP: CGI programs would
read it as the variable HTTP_PROXY."""

CREDENTIALS: Final = frozenset({b"authorization", b"cookie"})
"""Request fields that belong to the web application and its user."""

FORWARDING: Final = (b"x-forwarded-", b"forwarded")
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

_NOT_NOMINATED: Final = frozenset(b"authorization content-length content-type cookie host transfer-encoding".split())
"""Fields that `Connection` cannot take away: with them a request would become another request."""


def nominated(connection_options: Iterable[bytes]) -> frozenset[bytes]:
    """Return the names of the fields that the values of `Connection` nominate as belonging to that connection."""
    options = {option.strip(b" \t").lower() for value in connection_options for option in value.split(b",")}
    return frozenset(options - _NOT_NOMINATED)


def end_to_end(headers: list[tuple[bytes, bytes]], dropped: frozenset[bytes] = HOP_BY_HOP) -> list[tuple[bytes, bytes]]:
    """Return *headers* without those in *dropped* and those that `Connection` nominates."""
    options = [value for name, value in headers if name == b"connection"]
    if options:
        dropped = dropped | nominated(options)
    return [pair for pair in headers if pair[0] not in dropped]
