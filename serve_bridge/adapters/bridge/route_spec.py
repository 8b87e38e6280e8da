"""The entries of a setting with forwarded routes.

Rule 1: an entry is checked when it is read; the message names the setting and the pattern.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from serve_bridge.adapters.bridge.forwarded_route import OPTION_CHECKS, ForwardedRoute, RouteOptions, method_token
from serve_bridge.config import checks
from serve_bridge.errors import ConfigError
from serve_bridge.printable import CONTROL, nearest, shown


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """One entry of a setting with forwarded routes.

    Attributes:
        pattern: The path in the framework's own syntax. An `Adapter` gets it in Starlette's syntax.
        endpoint: Name of the endpoint.
        methods: HTTP methods in upper case; None: every method.
        options: The options of the route.
        extra: Further keys that the framework allows in an entry.
        mount: Whether the pattern is the prefix of an application. The rest of the path is the parameter `path`.
    """

    pattern: str
    endpoint: str
    methods: tuple[str, ...] | None = None
    options: RouteOptions = field(default_factory=RouteOptions)
    extra: Mapping[str, Any] = field(default_factory=dict)
    mount: bool = False


def parse_routes(
    value: object, where: str = "ROUTES", *, extra: Mapping[str, checks.Check] | None = None
) -> tuple[RouteSpec, ...]:
    """Return the entries of a setting `{pattern: endpoint}` or `{pattern: {"endpoint": ..., "methods": [...], ...}}`.

    *where* is the name of the setting, for messages. *extra* has the check of each further key of an entry.

    Raises:
        TypeError: The setting is not a dict, or an entry is neither a name nor a dict.
        ConfigError: A key is unknown, and the message suggests the nearest one; a value is wrong; or a pattern has a
            control character.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{where} must be a dict of patterns and endpoints, got {type(value).__name__}")
    return tuple(_parse(pattern, entry, f"{where}[{pattern!r}]", extra or {}) for pattern, entry in value.items())


def _parse(pattern: object, entry: object, where: str, extra: Mapping[str, checks.Check]) -> RouteSpec:
    if not isinstance(pattern, str):
        raise TypeError(f"{where}: a pattern is a str, got {type(pattern).__name__}")
    if control := CONTROL.search(pattern):
        raise ConfigError(f"{where}: the pattern has the control character {control[0]!r}; a route is printable text")
    given: Mapping[str, Any] = {"endpoint": entry} if isinstance(entry, str) else cast("Mapping[str, Any]", entry)
    if not isinstance(given, Mapping):
        raise TypeError(f"{where} must be the name of an endpoint, or a dict of options, got {shown(entry)}")
    known = ("endpoint", "methods", *extra, *OPTION_CHECKS)
    for name in given:
        if name not in known:
            near = nearest(name, known)
            raise ConfigError(f"{where} has an unknown key {shown(name)}{near}; known: {', '.join(known)}")
    if "endpoint" not in given:
        raise ConfigError(f"{where} has no 'endpoint'; name the endpoint of its requests")
    options = cast(RouteOptions, {name: item for name, item in given.items() if name in OPTION_CHECKS})
    ForwardedRoute(given["endpoint"], options, where=f"{where}.")
    return RouteSpec(
        pattern,
        given["endpoint"],
        None if given.get("methods") is None else _methods(f"{where}.methods", given["methods"]),
        options,
        {name: check(f"{where}.{name}", given[name]) for name, check in extra.items() if name in given},
    )


def _methods(name: str, value: object) -> tuple[str, ...]:
    listed: Iterable[Any] = checks.listed(name, value)
    return tuple(dict.fromkeys(method_token(name, method).upper() for method in listed))
