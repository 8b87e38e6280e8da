"""The host names by which clients may address a server.

A page of another site can make a browser send requests to a server on the user's own machine. The DNS of the site may
map a name to 127.0.0.1 (DNS rebinding). Or the page opens a WebSocket, because browsers let every page do so. The Host
or Origin header of such a request names the other site, so the server can refuse it.

Rule 1: pure. Each request costs one look-up in a cache of bounded size.
Rule 2: ports are ignored. Names are compared without case and without a final dot.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Final

from serve_bridge.config.addresses import is_loopback
from serve_bridge.config.http_options import HTTPOptions
from serve_bridge.http.name_cache import NameCache

__all__ = ["AllowedHosts", "allowed_hosts", "allowed_origins"]

_AUTHORITY: Final = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::[0-9]*)?")
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://([^/?#@]+)")


class AllowedHosts:
    """A set of hosts: names, addresses, and all names of a domain.

    Args:
        patterns: Stored patterns of `HTTPOptions.allowed_hosts`; None: names and addresses of the loopback interface.
    """

    def __init__(self, patterns: Sequence[str] | None) -> None:
        self._any = patterns is not None and "*" in patterns
        self._loopback = patterns is None
        self._names = {pattern.lstrip(".") for pattern in patterns or () if not pattern.startswith("*")}
        self._suffixes = tuple(pattern.lstrip("*") for pattern in patterns or () if pattern[0] in ".*")
        self._addresses = {address for name in self._names if (address := _address(name)) is not None}
        self._known: NameCache[bytes, bool] = NameCache(self._allows)

    def allows(self, authority: bytes) -> bool:
        """Return whether *authority*, the value of a Host header, names a host of the set."""
        return self._any or self._known[authority]

    def allows_origin(self, origin: bytes) -> bool:
        """Return whether *origin*, the value of an Origin header, is a page on a host of the set.

        The opaque origin `null` is not.
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
    """Return the hosts allowed by *options*. The default is all hosts, or only loopback for a server on loopback."""
    if options.allowed_hosts is None and not is_loopback(options.host):
        return AllowedHosts(("*",))
    return AllowedHosts(options.allowed_hosts)


def allowed_origins(options: HTTPOptions) -> AllowedHosts:
    """Return the hosts whose pages may open a WebSocket. The default is the allowed hosts."""
    return allowed_hosts(options) if options.allowed_origins is None else AllowedHosts(options.allowed_origins)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address  # a client of either form reaches the same IPv4 address
