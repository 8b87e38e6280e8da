"""The length of a request's body: a fact that the server of the request decides once, and that no header changes.

The server that frames a request knows how many bytes its body has. The edge puts that into the ASGI scope under
`BODY_LENGTH`; from there it travels with the request to the replica, and into the scope of user code.

Rule 1: a length is a number of bytes; 0: there is no body; None: only reading the body tells.
Rule 2: only for a request that another server has framed is the length read from what that server reports. This module
        is the one place for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["BODY_LENGTH", "COLLECTED", "body_length", "environ_body_length"]

BODY_LENGTH: Final = "serve_bridge.body_length"
"""Key of an ASGI scope."""
COLLECTED: Final = "serve_bridge.collected"
"""Key of an ASGI scope while the application waits for the whole body, and need not be told of each piece."""

_SAYS_IF_BODY: Final = frozenset({"1.0", "1.1"})
"""Later versions of HTTP need no header for a body."""


def body_length(scope: Mapping[str, Any]) -> int | None:
    """Return the length of the body that follows *scope*."""
    if BODY_LENGTH in scope:
        length: int | None = scope[BODY_LENGTH]
        return length
    announced = b""
    for name, value in scope.get("headers") or ():
        if name.lower() == b"transfer-encoding":
            return None
        if name.lower() == b"content-length":
            announced = value
    return _length(bytes(announced).decode("latin-1"), scope.get("http_version", "1.1"))


def environ_body_length(environ: Mapping[str, Any]) -> int | None:
    """Return the length of the body in a WSGI *environ*."""
    announced = str(environ.get("CONTENT_LENGTH") or "")
    if not announced and "HTTP_TRANSFER_ENCODING" in environ:
        return None
    return _length(announced, environ.get("SERVER_PROTOCOL", "").partition("/")[2] or "1.1")


def _length(announced: str, version: str) -> int | None:
    if announced.isdecimal():
        return int(announced)
    return 0 if version in _SAYS_IF_BODY else None
