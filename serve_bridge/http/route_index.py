"""Which route a path belongs to.

Rule 1: the first created route that matches wins, as in a scan over all of them in order.
Rule 2: no such scan is made. A static path is one dict look-up with the winner decided beforehand; for the
others a trie over the literal text of the segments leaves the few that can match; `PathPattern` decides, in time
linear in the path.
Rule 3: matching is exact: no slash is added, nothing is normalised, and nothing under ``/-/`` ever matches, however
that is spelt.
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
"""A route and the texts of its path parameters."""

_BRACE: Final = re.compile("[{}]")


class RouteIndex:
    """Finds the route of a path; immutable.

    Args:
        routes: All routes in the order of their creation.

    Raises:
        ValueError: A route does not compile; `serve_bridge.http.path_params.check_route` refuses it earlier.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Node()
        static: list[tuple[int, Route]] = []
        for order, route in enumerate(routes):
            if not route.mount and not _BRACE.search(route.path):
                static.append((order, route))  # nothing to compile, which would cost 30 us for each route of a table
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
        """Return the route that answers the decoded *path* and its raw path parameters, or None.

        A parameter whose converter refuses the text, like an integer of 5,000 digits, is no match.
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
    """A route in the trie; sorts by creation."""

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
    """The routes that agree on the literal text of their first segments.

    Attributes:
        literals: Next nodes by a segment without parameters.
        prefixes: Next nodes by length and text of what a segment has before its first parameter.
        ends: Routes that end here.
        tails: Routes that take whatever follows: mounts, and those with a ``path`` parameter.
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
    """Yield the text before the first parameter of each segment, and whether there is one; `path` ends it."""
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
"""The prefix of a mount at "/"; Starlette would read an empty string as a host name."""
