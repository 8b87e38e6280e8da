"""Trusted proxies in front of the server, whose headers name the real client of a request.

Rule 1: forwarding headers reach the application only from trusted peers.
Rule 2: a list of addresses is read from its end, written by the nearest peer, back to the first address without trust.
If an entry on the way is not an address, the whole list is ignored, because no trusted proxy writes such an entry.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Sequence
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["BelievingApp", "TrustedPeers"]

_HOPS: Final = 32
"""Upper limit for the entries read from the end of a list of addresses."""

_WITH_PORT = re.compile(r"\[([^\]]+)\](?::([0-9]{1,5}))?|([0-9.]+):([0-9]{1,5})")
_SCHEMES: Final = {"http": {"http": "http", "https": "https"}, "websocket": {"http": "ws", "https": "wss"}}

_logger = logging.getLogger("serve_bridge.proxy")


class TrustedPeers:
    """Addresses and networks of trusted peers."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(network, strict=False) for network in networks]

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._networks)

    def origin(self, forwarded_for: str) -> tuple[str, int] | None:
        """Return the client named by X-Forwarded-For; None: the list is empty.

        The client is the last address without trust, with its port (0: unknown).

        Raises:
            ValueError: An entry on the way is not an address.
        """
        found = None
        for entry in reversed(forwarded_for.rsplit(",", _HOPS)[-_HOPS:]):
            if entry.strip():
                found = address_and_port(entry.strip())
                if found[0] not in self:
                    break
        return found


def address_and_port(entry: str) -> tuple[str, int]:
    """Return the address and the port of one entry of X-Forwarded-For.

    Raises:
        ValueError: The entry is not an address.
    """
    host, port = entry, "0"
    if found := _WITH_PORT.fullmatch(entry):
        host, port = found[1] or found[3], found[2] or found[4] or "0"
    ipaddress.ip_address(host)
    return host, int(port)


class BelievingApp:
    """Sets client and scheme in the scope of the application from the headers of trusted peers."""

    def __init__(self, app: ASGIApp, peers: TrustedPeers) -> None:
        self._app = app
        self._peers = peers
        self._warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["client"] and scope["client"][0] in self._peers:
            self._believe(scope)
        await self._app(scope, receive, send)

    def _believe(self, scope: Scope) -> None:
        values: dict[bytes, list[str]] = {b"x-forwarded-for": [], b"x-forwarded-proto": []}
        for name, value in scope["headers"]:
            if name in values:
                values[name].append(value.decode("latin-1"))
        schemes = _SCHEMES[scope["type"]]
        for scheme in values[b"x-forwarded-proto"]:
            scope["scheme"] = schemes.get(scheme.strip(), scope["scheme"])
        try:
            scope["client"] = self._peers.origin(",".join(values[b"x-forwarded-for"])) or scope["client"]
        except ValueError:
            if not self._warned:
                self._warned = True
                _logger.warning("ignored: the X-Forwarded-For of a trusted proxy does not end in addresses")
