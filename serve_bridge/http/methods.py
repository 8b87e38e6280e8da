"""HTTP methods: the methods of an endpoint, and the methods of requests that may be sent twice."""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import Final, TypeAlias

from serve_bridge.config.checks import token
from serve_bridge.errors import ConfigError
from serve_bridge.printable import shown

Methods: TypeAlias = list[str] | tuple[str, ...] | Set[str]
"""HTTP methods as users give them. A str is not a list of methods, although it is an iterable of str."""
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Methods whose requests have the same effect if they are sent twice (RFC 9110 section 9.2.2)."""
ANY_METHOD: Final = ("*",)
"""The methods shown for an endpoint over an application. The application decides about methods itself."""


def checked_methods(methods: Iterable[str]) -> tuple[str, ...]:
    """Return HTTP methods in their stored form: upper case, without duplicates, without the HEAD that GET implies.

    Raises:
        TypeError: *methods* is not a list of strings.
        ConfigError: There are no methods, or one is not an HTTP method.
    """
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
        raise ConfigError("'*' is not an HTTP method; name the methods of the endpoint")
    if not found:
        raise ConfigError("methods must name at least one HTTP method")
    return tuple(found)
