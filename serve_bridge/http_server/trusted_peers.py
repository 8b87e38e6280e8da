"""Whose word is taken for where a request came from.

Rule 1: of a stranger's forwarding headers none reaches the application; those of trusted peers do.
Rule 2: a list of addresses is read from its end, which the nearest peer has written, up to the first stranger.
What is no address there was written by nobody who can be trusted, and the list says nothing then.
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
"""Trusted peers that a request may have passed; what more of them say is not looked at."""

_WITH_PORT = re.compile(r"\[([^\]]+)\](?::([0-9]{1,5}))?|([0-9.]+):([0-9]{1,5})")
_SCHEMES: Final = {"http": {"http": "http", "https": "https"}, "websocket": {"http": "ws", "https": "wss"}}

_logger = logging.getLogger("serve_bridge.proxy")


class TrustedPeers:
    """Addresses and networks whose forwarding headers are believed."""

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
        """Return address and port (0: not known) of the last stranger in an X-Forwarded-For; None: it says nothing.

        Raises:
            ValueError: It holds something else than addresses.
        """
        found = None
        for entry in reversed(forwarded_for.rsplit(",", _HOPS)[-_HOPS:]):
            if entry.strip():
                found = address_and_port(entry.strip())
                if found[0] not in self:
                    break
        return found


def address_and_port(entry: str) -> tuple[str, int]:
    """Return what one entry of an X-Forwarded-For names.

    Raises:
        ValueError: No address.
    """
    host, port = entry, "0"
    if found := _WITH_PORT.fullmatch(entry):
        host, port = found[1] or found[3], found[2] or found[4] or "0"
    ipaddress.ip_address(host)
    return host, int(port)


class BelievingApp:
    """An application that is told client and scheme as trusted peers say them."""

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
