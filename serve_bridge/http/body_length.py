"""The length of a request's body. The server of the request finds it once, and no header changes it later.

The server frames the request, so it knows the length of the body. Our own HTTP server puts the length into the ASGI
scope under `BODY_LENGTH`. From there the length travels with the request to the replica and into user code's scope.

Rule 1: a length is a number of bytes. 0 means no body. None means unknown until the body ends.
Rule 2: for a request from another server, this module reads the length from the headers or the environment that the
    server reports. No other module does so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["BODY_LENGTH", "COLLECTED", "body_length", "environ_body_length"]

BODY_LENGTH: Final = "serve_bridge.body_length"
"""Key of an ASGI scope: the length of the body."""
COLLECTED: Final = "serve_bridge.collected"
"""Key of an ASGI scope while the application waits for the whole body. The server then does not report each piece."""

_SAYS_IF_BODY: Final = frozenset({"1.0", "1.1"})
"""Versions of HTTP in which a header announces each body. Later versions do not need a header."""


def body_length(scope: Mapping[str, Any]) -> int | None:
    """Return the length of the body of the request with the ASGI *scope*."""
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
    """Return the length of the body of the request with the WSGI *environ*."""
    announced = str(environ.get("CONTENT_LENGTH") or "")
    if not announced and "HTTP_TRANSFER_ENCODING" in environ:
        return None
    return _length(announced, environ.get("SERVER_PROTOCOL", "").partition("/")[2] or "1.1")


def _length(announced: str, version: str) -> int | None:
    if announced.isdecimal():
        return int(announced)
    return 0 if version in _SAYS_IF_BODY else None
