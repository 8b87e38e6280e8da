"""The names by which clients may address a server.

A page of another site can make a browser send requests to a server on the user's own machine: by a name that the
site's DNS points at 127.0.0.1 (DNS rebinding), or by opening a WebSocket, for which browsers ask no permission. Its
Host, or its Origin, gives it away.

Rule 1: pure. One look-up a request, in a cache that is bounded in bytes.
Rule 2: ports count for nothing. Names are compared without case and without a dot at their end.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Final

from serve_bridge.config.http_options import HTTPOptions, is_loopback
from serve_bridge.http.name_cache import NameCache

__all__ = ["AllowedHosts", "allowed_hosts", "allowed_origins"]

_AUTHORITY: Final = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::[0-9]*)?")
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://([^/?#@]+)")


class AllowedHosts:
    """A set of hosts: names, addresses, and the names below a domain.

    Args:
        patterns: As `HTTPOptions.allowed_hosts` stores them; None: the names and addresses of the loopback interface.
    """

    def __init__(self, patterns: Sequence[str] | None) -> None:
        self._any = patterns is not None and "*" in patterns
        self._loopback = patterns is None
        self._names = {pattern.lstrip(".") for pattern in patterns or () if not pattern.startswith("*")}
        self._suffixes = tuple(pattern.lstrip("*") for pattern in patterns or () if pattern[0] in ".*")
        self._addresses = {address for name in self._names if (address := _address(name)) is not None}
        self._known: NameCache[bytes, bool] = NameCache(self._allows)

    def allows(self, authority: bytes) -> bool:
        """Return whether *authority*, the value of a Host header, names one of the hosts."""
        return self._any or self._known[authority]

    def allows_origin(self, origin: bytes) -> bool:
        """Return whether *origin*, the value of an Origin header, is a page of one of the hosts.

        The opaque origin `null` is none of them.
        """
        if self._any:
            return True
        found = _ORIGIN.fullmatch(origin.decode("latin-1").lower())
        return found is not None and self._known[found[1].encode("latin-1")]

    def _allows(self, authority: bytes) -> bool:
        found = _AUTHORITY.fullmatch(authority.decode("latin-1").lower())
        if found is None:
            return False
        host = found[1].removesuffix(".")
        if host in self._names or host.endswith(self._suffixes):
            return True
        address = _address(host)
        if address is None:
            return self._loopback and (host == "localhost" or host.endswith(".localhost"))
        return address in self._addresses or (self._loopback and address.is_loopback)


def allowed_hosts(options: HTTPOptions) -> AllowedHosts:
    """Return the hosts that *options* allow; by default those of the loopback interface if that is listened on."""
    if options.allowed_hosts is None and not is_loopback(options.host):
        return AllowedHosts(("*",))
    return AllowedHosts(options.allowed_hosts)


def allowed_origins(options: HTTPOptions) -> AllowedHosts:
    """Return the hosts whose pages may open a WebSocket; by default the allowed hosts."""
    return allowed_hosts(options) if options.allowed_origins is None else AllowedHosts(options.allowed_origins)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
