"""The pattern of a route, which matches in time linear in the path.

Rule 1: a match has the result of Starlette's own regex. Each parameter takes as much text as it can, the first one
    first.
Rule 2: no parameter backtracks over another. A parameter with a certain end is possessive in the regex. The other
    parameters of a segment are matched as one piece of text, which `ParameterRun` cuts from its end. Behind a parameter
    of type `path`, the piece is the whole rest of the path.
Rule 3: a route is refused if a single cut from the end could miss a match. The error tells how to write the route.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from serve_bridge.http.parameter_run import ALPHABETS, POSSESSIVE, Param, ParameterRun

__all__ = ["MOST_PARAMS", "PathPattern"]

MOST_PARAMS: Final = 64
"""Upper limit for the parameters of one route."""


class PathPattern:
    """A compiled route. A pattern is immutable.

    Args:
        route: The route as the user wrote it, for errors.
        pieces: Literal texts before, between and after the parameters, one more than parameters.
        params: Name and converter of each parameter, in order.
        mount: Whether the route is a prefix. A match may then end at any slash behind it.

    Attributes:
        regex: Matches a whole path with ``fullmatch``. It never backtracks, so it reads each character once.

    Raises:
        ValueError: The end of a parameter is ambiguous (see rule 3), or there are too many parameters.
    """

    __slots__ = ("_runs", "regex")

    def __init__(self, route: str, pieces: Sequence[str], params: Sequence[Param], *, mount: bool = False) -> None:
        if len(params) > MOST_PARAMS:
            raise ValueError(f"route {route!r} has {len(params)} parameters; at most {MOST_PARAMS} are allowed")
        regex = [re.escape(pieces[0])]
        self._runs: list[tuple[int, ParameterRun]] = []
        at = group = 0
        while at < len(params):
            converter, literal = params[at][1], pieces[at + 1]
            if _has_certain_end(converter, literal, is_last=at + 1 == len(params)):
                regex += (f"({POSSESSIVE[converter]})", re.escape(literal))
                at += 1
            else:
                end = _end_of_run(pieces, params, at)
                suffix, slash, rest = pieces[end], "", ""
                if converter != "path":
                    suffix, slash, rest = suffix.partition("/")
                self._runs.append((group, ParameterRun(route, params[at:end], pieces[at + 1 : end], suffix)))
                regex += ("((?s:.*+))" if converter == "path" else "([^/]++)", re.escape(slash + rest))
                at = end
            group += 1
        if mount:
            regex.append("(?:/(?s:.*+))?+")  # (?s:) because a mount takes every sub-path, with a line feed too
        self.regex: re.Pattern[str] = re.compile("".join(regex))

    def match(self, path: str) -> Sequence[str] | None:
        """Return the text of each parameter in *path*; None if the route does not match."""
        found = self.regex.fullmatch(path)
        if found is None:
            return None
        texts: Sequence[str] = found.groups()
        if not self._runs:
            return texts
        values: list[str] = []
        done = 0
        for group, run in self._runs:
            values += texts[done:group]
            cut = run.cut(texts[group])
            if cut is None:
                return None
            values += cut
            done = group + 1
        values += texts[done:]
        return values


def _has_certain_end(converter: str, literal: str, *, is_last: bool) -> bool:
    """Return whether a possessive parameter before *literal* ends at the same place as Starlette's parameter."""
    if converter == "uuid" or (is_last and not literal):
        return True
    if not literal or converter == "path":
        return False
    return literal[0] == "/" if converter == "str" else literal[0] not in ALPHABETS[converter]


def _end_of_run(pieces: Sequence[str], params: Sequence[Param], start: int) -> int:
    """Return the index behind the last parameter of the run with the first parameter *start*."""
    if params[start][1] == "path":
        return len(params)
    end = start + 1
    while end < len(params) and "/" not in pieces[end]:
        end += 1
    return end
