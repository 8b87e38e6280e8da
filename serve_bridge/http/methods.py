"""HTTP methods: the ones that an endpoint takes, and the ones that are safe to send twice."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from serve_bridge.config.checks import token
from serve_bridge.errors import ConfigError
from serve_bridge.printable import shown

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Methods whose requests may be sent twice with the effect of one (RFC 9110 section 9.2.2)."""
ANY_METHOD: Final = ("*",)
"""The methods of an endpoint over an application, as they are shown: the application has methods of its own."""


def checked_methods(methods: Iterable[str]) -> tuple[str, ...]:
    """Return HTTP methods as they are stored: upper-case, once each, without the HEAD that comes with GET."""
    if isinstance(methods, str | bytes) or not isinstance(methods, Iterable):
        raise TypeError(f"methods must be a list of methods such as ['GET'], got {shown(methods)}")
    found: dict[str, None] = {}
    for method in methods:
        if not isinstance(method, str):
            raise TypeError(f"methods must be strings, got {shown(method)}")
        found[token("an HTTP method", method).upper()] = None
    if "GET" in found:
        found.pop("HEAD", None)
    if ANY_METHOD[0] in found:
        raise ConfigError("'*' is no HTTP method; name those that the endpoint takes")
    if not found:
        raise ConfigError("methods must name at least one HTTP method")
    return tuple(found)
