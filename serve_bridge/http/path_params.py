"""The syntax of routes, and the typed values of their parameters.

Rule 1: routes have the path syntax of Starlette, and Starlette parses them. No code here parses a route a second time.
Rule 2: the module is pure. The client checks a route with it, the proxy compiles routes, and the replica converts the
    texts of parameters to values.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from starlette.convertors import CONVERTOR_TYPES

from serve_bridge.errors import ConfigError
from serve_bridge.http.path_pattern import PathPattern
from serve_bridge.printable import CONTROL

__all__ = [
    "CONVERTERS",
    "RESERVED_PREFIX",
    "CompiledPath",
    "PathParam",
    "check_route",
    "compile_route",
    "convert",
    "is_reserved",
]

RESERVED_PREFIX = "/-/"
"""The proxy itself answers all paths below this prefix."""

CONVERTERS = ("str", "int", "float", "path", "uuid")
"""The converters of routes. A converter registered with Starlette in one process would be unknown in the others."""

PathParam = tuple[str, str, str]
"""Name, converter and matched text of one path parameter, as it travels to a replica."""

_ANGLES = re.compile(r"<(?:(?P<converter>\w+)(?:\([^)]*\))?:)?(?P<name>\w+)>")
"""A parameter as Flask and Django write it."""

_CONVERT = {name: CONVERTOR_TYPES[name].convert for name in CONVERTERS}


class CompiledPath(NamedTuple):
    """A route as Starlette parses it.

    Attributes:
        params: Name and converter of each parameter, in order.
        pieces: Literal texts before, between and after the parameters, one more than parameters.
    """

    params: tuple[tuple[str, str], ...]
    pieces: tuple[str, ...]


def compile_route(route: str) -> CompiledPath:
    """Compile *route* with Starlette.

    Raises:
        ValueError: Starlette cannot compile the route. Or a converter is not in `CONVERTERS`, two parameters have the
            same name, a brace belongs to no parameter, or there is a "<" or ">" as in Flask's syntax.
    """
    # Late, because starlette.routing loads most of Starlette, and `import serve_bridge` must not load it.
    from starlette.routing import PARAM_REGEX, compile_path

    found = [(match.group(1), (match.group(2) or ":str")[1:]) for match in PARAM_REGEX.finditer(route)]
    for name, converter in found:
        if converter not in CONVERTERS:
            known = ", ".join(CONVERTERS)
            raise ValueError(
                f"route {route!r}: parameter {name!r} has an unknown converter {converter!r}; known: {known}"
            )
    pieces = tuple(PARAM_REGEX.split(route)[::3])
    if any("{" in piece or "}" in piece for piece in pieces):
        raise ValueError(
            f"route {route!r} has a brace that belongs to no parameter; write {{name}} or {{name:converter}}"
        )
    if any("<" in piece or ">" in piece for piece in pieces):
        meant = _ANGLES.sub(_braces, route)
        hint = f"did you mean {meant!r}?" if meant != route else "write {name} or {name:converter}"
        raise ValueError(f"route {route!r} has a '<' or '>', as parameters of other frameworks have; {hint}")
    try:
        compile_path(route)
    except (ValueError, re.error) as error:
        raise ValueError(f"route {route!r} does not compile: {error}") from error
    return CompiledPath(tuple(found), pieces)


def _braces(parameter: re.Match[str]) -> str:
    """Return a *parameter* in Flask's or Django's syntax as one in Starlette's syntax."""
    converter = parameter["converter"]
    return f"{{{parameter['name']}:{converter}}}" if converter in CONVERTERS else f"{{{parameter['name']}}}"


def check_route(route: object, *, mount: bool = False) -> str:
    """Return *route* if an endpoint may have it.

    Args:
        route: The argument of the user.
        mount: Whether the route is the prefix of a mount.

    Raises:
        TypeError: The route is not a str, or does not start with "/".
        ConfigError: The route is below `RESERVED_PREFIX`, has a control character, does not compile, or cannot be
            matched in linear time. Or it is the prefix of a mount with a parameter of type ``path``, so the end of the
            prefix would be ambiguous. The error is a ValueError too.
    """
    if not isinstance(route, str):
        raise TypeError(f"a route must be a str that starts with '/', not {type(route).__name__}")
    if not route.startswith("/"):
        raise TypeError(f"a route must start with '/': {route!r}")
    if is_reserved(route) or (mount and route == RESERVED_PREFIX[:-1]):
        raise ConfigError(f"route {route!r}: everything under {RESERVED_PREFIX} is reserved for the proxy")
    if control := CONTROL.search(route):
        raise ConfigError(f"route {route!r} has the control character {control[0]!r}; a route is printable text")
    try:
        compiled = compile_route(route)
        PathPattern(route, compiled.pieces, compiled.params)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if mount and any(converter == "path" for _, converter in compiled.params):
        raise ConfigError(
            f"route {route!r}: the prefix of a mounted application cannot have a parameter of type 'path'"
        )
    return route


def is_reserved(path: str) -> bool:
    """Return whether *path* is below `RESERVED_PREFIX`, also after a framework merges its slashes and dots."""
    return path.startswith(RESERVED_PREFIX) or posixpath.normpath("/" + path.lstrip("/")).startswith(RESERVED_PREFIX)


def convert(params: Iterable[PathParam]) -> dict[str, Any]:
    """Return the typed value of each parameter, as in Starlette's ``request.path_params``.

    Raises:
        ValueError: A text cannot be converted, such as an integer with more digits than Python allows.
    """
    return {name: _CONVERT[converter](text) for name, converter, text in params}
