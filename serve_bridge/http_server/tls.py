"""The start of a TLS connection: a client that does not speak HTTP/1.1 gets an alert."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Any, Final
from weakref import WeakKeyDictionary

from serve_bridge.http_server.acceptor import accepted
from serve_bridge.http_server.client_hello import PROTOCOL, protocols_offered

__all__ = ["listening_context"]

_CLIENT_HELLO: Final = 1
"""Number of the message (RFC 8446)."""
_NO_APPLICATION_PROTOCOL: Final = 120
"""Number of the alert (RFC 7301)."""
_ALERT: Final = bytes((21, 3, 3, 0, 2, 2, _NO_APPLICATION_PROTOCOL))
"""The record of this alert, which is fatal."""


def listening_context(serving: ssl.SSLContext) -> ssl.SSLContext:
    """Return the context in which connections begin. It hands them over to *serving* once it knows their protocols.

    A client that offers protocols, but not HTTP/1.1, gets the alert `no_application_protocol` (RFC 7301 section 3.2).
    Python's own selection continues without a protocol, so such a client would send HTTP/2 to this server.

    Only the returned context has a message callback, because a callback costs time for each record.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.verify_mode = serving.verify_mode
    offers: WeakKeyDictionary[object, list[bytes] | None] = WeakKeyDictionary()

    def read(connection: object, direction: str, _version: Any, _content: Any, kind: Any, message: bytes) -> None:
        if direction == "read" and kind == _CLIENT_HELLO:
            offers[connection] = protocols_offered(message)

    def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> int | None:
        offered = offers.pop(connection, None)
        if offered is not None and PROTOCOL.encode() not in offered:
            # If a handshake fails, the event loop drops OpenSSL's alert, so this line writes it to the socket itself.
            # It is the first write, so the socket's buffer has room. No key is agreed on yet, so it is in plain text.
            with suppress(OSError, LookupError):
                accepted.get().send(_ALERT)
            return _NO_APPLICATION_PROTOCOL
        connection.context = serving
        return None

    context._msg_callback = read  # type: ignore[attr-defined]
    context.sni_callback = choose
    return context
