"""What a route may look like, and the typed values that its parameters have.

Rule 1: Starlette's path syntax is the only one, and Starlette parses it; nothing here parses a route again.
Rule 2: pure. The client checks a route with it, the proxy compiles it, the replica turns texts into values.
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
"""Everything under it is answered by the proxy itself."""

CONVERTERS = ("str", "int", "float", "path", "uuid")
"""The converters a route may name; one that a process registers with Starlette is unknown to the others."""

PathParam = tuple[str, str, str]
"""Name, converter and matched text of one path parameter; the form in which it travels to a replica."""

_ANGLES = re.compile(r"<(?:(?P<converter>\w+)(?:\([^)]*\))?:)?(?P<name>\w+)>")
"""A parameter as Flask and Django write it."""

_CONVERT = {name: CONVERTOR_TYPES[name].convert for name in CONVERTERS}


class CompiledPath(NamedTuple):
    """A route as Starlette understands it.

    Attributes:
        params: Name and converter of each parameter, in order.
        pieces: The literal text before, between and after the parameters; one more than there are parameters.
    """

    params: tuple[tuple[str, str], ...]
    pieces: tuple[str, ...]


def compile_route(route: str) -> CompiledPath:
    """Compile *route* with Starlette.

    Raises:
        ValueError: Starlette cannot compile it, it names a converter that is not in `CONVERTERS`, names a
            parameter twice, has a brace that belongs to no parameter, or a "<" or ">" as in Flask's syntax.
    """
    # Late: starlette.routing loads most of Starlette, which `import serve_bridge` must not.
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
    """Return a *parameter* of Flask or Django in Starlette's syntax."""
    converter = parameter["converter"]
    return f"{{{parameter['name']}:{converter}}}" if converter in CONVERTERS else f"{{{parameter['name']}}}"


def check_route(route: object, *, mount: bool = False) -> str:
    """Return *route* if an endpoint may have it.

    Args:
        route: What the user passed.
        mount: The endpoint is a mount, and the route the prefix of all it answers.

    Raises:
        TypeError: It is no str, or does not start with "/".
        ConfigError: It lies under `RESERVED_PREFIX`, has a control character, does not compile as a Starlette path,
            cannot be matched in linear time, or is the prefix of a mount with a parameter of the converter ``path``,
            which leaves open where the prefix ends. It is a ValueError.
    """
    if not isinstance(route, str):
        raise TypeError(f"a route is a str that starts with '/', not {type(route).__name__}")
    if not route.startswith("/"):
        raise TypeError(f"a route starts with '/': {route!r}")
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
            f"route {route!r}: the prefix of a mounted application cannot hold a parameter of type 'path'"
        )
    return route


def is_reserved(path: str) -> bool:
    """Return whether *path* lies under `RESERVED_PREFIX`, also as frameworks spell it that merge slashes and dots."""
    return path.startswith(RESERVED_PREFIX) or posixpath.normpath("/" + path.lstrip("/")).startswith(RESERVED_PREFIX)


def convert(params: Iterable[PathParam]) -> dict[str, Any]:
    """Return the typed value of each parameter, as Starlette gives it in ``request.path_params``.

    Raises:
        ValueError: A text has no such value, like an integer with more digits than Python reads.
    """
    return {name: _CONVERT[converter](text) for name, converter, text in params}
