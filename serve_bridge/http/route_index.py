"""The index that finds the route of a path.

Rule 1: if several routes match, the route that was created first wins.
Rule 2: a look-up does not scan all routes. For a static path it is one look-up in a dict. For other paths, a trie over
    the literal text of the segments finds the few candidates, and `PathPattern` checks them in time linear in the path.
Rule 3: matching is exact. No slash is added and no path is normalised. No path below ``/-/`` matches, in any spelling.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Final, NamedTuple

from serve_bridge.http.path_params import CompiledPath, PathParam, compile_route, convert, is_reserved
from serve_bridge.http.path_pattern import PathPattern
from serve_bridge.http.route import Route

__all__ = ["Match", "RouteIndex"]

Match = tuple["Route", tuple[PathParam, ...]]
"""A route and its path parameters."""

_BRACE: Final = re.compile("[{}]")


class RouteIndex:
    """Finds the route of a path. An index is immutable.

    Args:
        routes: All routes in the order of their creation.

    Raises:
        ValueError: A route does not compile. Routes from users were checked before, by `path_params.check_route`.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Node()
        static: list[tuple[int, Route]] = []
        for order, route in enumerate(routes):
            if not route.mount and not _BRACE.search(route.path):
                static.append((order, route))  # not compiled, which would cost 30 us for each route of a table
                continue
            prefix = route.path.rstrip("/") if route.mount else route.path
            compiled = compile_route(prefix) if prefix else _EMPTY
            if compiled.params or route.mount:
                self._root.insert(_Candidate.of(order, route, compiled), compiled)
            else:
                static.append((order, route))
        self._static: dict[str, Match] = {}
        for order, route in static:
            self._static.setdefault(route.path, self._search(route.path, before=order) or (route, ()))

    def match(self, path: str) -> Match | None:
        """Return the route for the decoded *path*, and its path parameters as text; None if no route matches.

        If a converter refuses the text of a parameter, such as an integer of 5,000 digits, the route does not match.
        """
        if "-/" in path and is_reserved(path):
            return None
        return self._static.get(path) or self._search(path)

    def _search(self, path: str, before: float = float("inf")) -> Match | None:
        for candidate in sorted(self._root.candidates(path)):
            if candidate.order < before and (match := candidate.match(path)):
                return match
        return None


class _Candidate(NamedTuple):
    """A route in the trie. Candidates sort by the order of their creation."""

    order: int
    route: Route
    pattern: PathPattern
    params: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, order: int, route: Route, compiled: CompiledPath) -> _Candidate:
        pattern = PathPattern(route.path, compiled.pieces, compiled.params, mount=route.mount)
        return cls(order, route, pattern, compiled.params)

    def match(self, path: str) -> Match | None:
        texts = self.pattern.match(path)
        if texts is None:
            return None
        params = tuple((name, converter, text) for (name, converter), text in zip(self.params, texts, strict=True))
        try:
            convert(params)
        except ValueError:
            return None
        return self.route, params


class _Node:
    """The routes with the same literal text in their first segments.

    Attributes:
        literals: Next nodes, by a segment without parameters.
        prefixes: Next nodes, by the length and the text of a segment's literal before its first parameter.
        ends: Routes whose last segment is this node.
        tails: Routes with any further segments: mounts, and routes with a ``path`` parameter.
    """

    __slots__ = ("ends", "literals", "prefixes", "tails")

    def __init__(self) -> None:
        self.literals: dict[str, _Node] = {}
        self.prefixes: dict[int, dict[str, _Node]] = {}
        self.ends: list[_Candidate] = []
        self.tails: list[_Candidate] = []

    def insert(self, candidate: _Candidate, compiled: CompiledPath) -> None:
        node = self
        for text, has_params in _segments(compiled):
            children = node.prefixes.setdefault(len(text), {}) if has_params else node.literals
            node = children.setdefault(text, _Node())
        takes_rest = candidate.route.mount or any(converter == "path" for _, converter in compiled.params)
        (node.tails if takes_rest else node.ends).append(candidate)

    def candidates(self, path: str) -> list[_Candidate]:
        nodes = [self]
        found: list[_Candidate] = []
        for segment in path.split("/"):
            nodes = [child for node in nodes for child in node._next(segment)]
            if not nodes:
                return found
            for node in nodes:
                found += node.tails
        for node in nodes:
            found += node.ends
        return found

    def _next(self, segment: str) -> Iterator[_Node]:
        if segment in self.literals:
            yield self.literals[segment]
        for length, children in self.prefixes.items():
            if (child := children.get(segment[:length])) is not None:
                yield child


def _segments(compiled: CompiledPath) -> Iterator[tuple[str, bool]]:
    """Yield the text before the first parameter of each segment, and whether there is a parameter.

    A parameter of type ``path`` ends the segments.
    """
    text, has_params = "", False
    for piece, param in zip_longest(compiled.pieces, compiled.params):
        head, *rest = piece.split("/")
        text += "" if has_params else head
        for segment in rest:
            yield text, has_params
            text, has_params = segment, False
        if param is not None:
            has_params = True
            if param[1] == "path":
                break
    yield text, has_params


_EMPTY = CompiledPath((), ("",))
"""The prefix of a mount at "/". It is written here because Starlette would read an empty string as a host name."""
