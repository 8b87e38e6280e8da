"""Forwarded routes in Starlette's path syntax: their index for adapters without a framework, and their translation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from serve_bridge.adapters.bridge.forwarded_route import ForwardedRoute
from serve_bridge.adapters.bridge.route_spec import RouteSpec
from serve_bridge.errors import ConfigError
from serve_bridge.http.path_params import check_route, compile_route, convert
from serve_bridge.http.route import Route
from serve_bridge.http.route_index import RouteIndex


class NamedRoute:
    """The value of `route` and `endpoint` in a scope, so that tracers give requests of one route the same name.

    Attributes:
        path: The pattern.
        name: The name of a Starlette route to the same endpoint.
    """

    def __init__(self, path: str, endpoint: str) -> None:
        self.path = path
        self.name: str = f"serve_bridge_{endpoint}"
        self.__name__: str = self.name

    def __repr__(self) -> str:
        return f"NamedRoute({self.path!r})"


_ANGLES: Final = re.compile(r"<[^<>]*>")
_BRACES: Final = re.compile(r"\{(?P<name>\w+)(?::(?P<converter>\w+))?\}")


class Match(NamedTuple):
    """A route found for a path.

    Attributes:
        route: The forwarded route.
        path_params: The path parameters, converted.
        methods: The methods of the route in upper case, HEAD with GET; None: every method.
        named: Name and pattern of the route.
    """

    route: ForwardedRoute
    path_params: Mapping[str, Any]
    methods: frozenset[str] | None
    named: NamedRoute

    def takes(self, method: str) -> bool:
        """Whether the route answers requests of *method*."""
        return self.methods is None or method in self.methods


class Patterns:
    """An index of forwarded routes, immutable. The cost of a lookup does not grow with the number of routes."""

    def __init__(self, specs: Iterable[RouteSpec]) -> None:
        """Index the entries of `parse_routes`. If several patterns match a path, the first one wins.

        Raises:
            TypeError, ValueError: A pattern is not a path in Starlette's syntax; the message names it.
        """
        self._routes: dict[str, tuple[ForwardedRoute, frozenset[str] | None, NamedRoute]] = {}
        routes: list[Route] = []
        for spec in specs:
            check_route(spec.pattern, mount=spec.mount)
            methods = None if spec.methods is None else frozenset(spec.methods)
            if methods is not None and "GET" in methods:
                methods |= {"HEAD"}
            named = NamedRoute(spec.pattern, spec.endpoint)
            self._routes[spec.pattern] = ForwardedRoute(spec.endpoint, spec.options), methods, named
            routes.append(Route(spec.pattern, spec.pattern, frozenset(), spec.mount))
        self._index = RouteIndex(routes)

    def match(self, path: str) -> Match | None:
        """Return the route for the decoded *path*; None if there is none."""
        found = self._index.match(path)
        if found is None:
            return None
        route, params = found
        try:
            path_params = convert(params)
        except ValueError:  # the number has more digits than Python converts
            return None
        if route.mount:
            path_params["path"] = path[len(route.root_path(path)) + 1 :]
        forwarded, methods, named = self._routes[route.path]
        return Match(forwarded, path_params, methods, named)


def translate(pattern: str, syntax: Mapping[str, str]) -> str:
    """Translate *pattern* from Starlette's syntax to the syntax of another framework.

    Args:
        pattern: A path such as "/users/{user_id:int}".
        syntax: The framework's parameter for each converter (`str int float path uuid`), with `{}` in place of the
            name: `{"int": "<int:{}>", ...}`.

    Raises:
        ValueError: *pattern* is not in Starlette's syntax, or *syntax* lacks a converter.
    """
    compiled = compile_route(pattern)
    parts = [compiled.pieces[0]]
    for (name, converter), piece in zip(compiled.params, compiled.pieces[1:], strict=True):
        if converter not in syntax:
            raise ValueError(f"route {pattern!r}: no parameter of type {converter!r} can be written in this framework")
        parts += [syntax[converter].format(name), piece]
    return "".join(parts)


def refuse_braces(pattern: str) -> None:
    """Check that *pattern*, in the syntax of Flask or Django, has no parameter in Starlette's syntax.

    Raises:
        ConfigError: *pattern* has a parameter in braces. It would be literal text, which no request matches.
    """
    if _BRACES.search(_ANGLES.sub("", pattern)):
        meant = _BRACES.sub(_angles, pattern)
        raise ConfigError(f"the pattern {pattern!r} has a parameter in braces; did you mean {meant!r}?")


def _angles(parameter: re.Match[str]) -> str:
    converter = parameter["converter"]
    return f"<{converter}:{parameter['name']}>" if converter and converter != "str" else f"<{parameter['name']}>"
