"""The pattern of a route, matched in time linear in the path.

Rule 1: A match gives what Starlette's own regex gives: each parameter takes as much as it can, the first one first.
Rule 2: No parameter backtracks over another. A parameter whose end is certain is possessive in the regex. The other
    parameters of a segment (or of the rest of the path, behind a parameter of type `path`) are matched as one piece
    of text, which `_Run` cuts from its end.
Rule 3: A route for which a single cut from the end could miss a match is refused; the error says how to write it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

__all__ = ["MOST_PARAMS", "PathPattern"]

MOST_PARAMS: Final = 64
"""Upper limit for the parameters of one route."""

_DIGITS: Final = frozenset("0123456789")
_ALPHABETS: Final = {
    "int": _DIGITS,
    "float": _DIGITS | {"."},
    "uuid": _DIGITS | frozenset("abcdefABCDEF-"),
}
_POSSESSIVE: Final = {
    "str": "[^/]++",
    "path": ".*+",
    "int": "[0-9]++",
    "float": r"[0-9]++(?:\.[0-9]++)?+",
    "uuid": "[0-9a-fA-F]{8}-?+[0-9a-fA-F]{4}-?+[0-9a-fA-F]{4}-?+[0-9a-fA-F]{4}-?+[0-9a-fA-F]{12}",
}
_UUID_BACKWARDS: Final = re.compile(
    "[0-9a-fA-F]{12}-?+[0-9a-fA-F]{4}-?+[0-9a-fA-F]{4}-?+[0-9a-fA-F]{4}-?+[0-9a-fA-F]{8}"
)
_WHOLE: Final = {name: re.compile(regex) for name, regex in _POSSESSIVE.items()}
_WIDTHS: Final = {"path": 2, "str": 1, "int": 0}
"""Types whose texts can be cut anywhere and stay of the type; a wider type takes every text of a narrower one."""

Param = tuple[str, str]
"""Name and converter of a parameter."""


class PathPattern:
    """A compiled route; immutable.

    Args:
        route: The route as the user wrote it, for errors.
        pieces: Literal text before, between and after the parameters; one more than there are parameters.
        params: Name and converter of each parameter, in order.
        mount: The route is a prefix: a match may end at any slash behind it.

    Attributes:
        regex: Matches a whole path with ``fullmatch``; reads each character once, since no repeat gives back.

    Raises:
        ValueError: The end of a parameter is ambiguous (see rule 3), or there are too many parameters.
    """

    __slots__ = ("_runs", "regex")

    def __init__(self, route: str, pieces: Sequence[str], params: Sequence[Param], *, mount: bool = False) -> None:
        if len(params) > MOST_PARAMS:
            raise ValueError(f"route {route!r} has {len(params)} parameters; at most {MOST_PARAMS} are allowed")
        regex = [re.escape(pieces[0])]
        self._runs: list[tuple[int, _Run]] = []
        at = group = 0
        while at < len(params):
            converter, literal = params[at][1], pieces[at + 1]
            if _has_certain_end(converter, literal, is_last=at + 1 == len(params)):
                regex += (f"({_POSSESSIVE[converter]})", re.escape(literal))
                at += 1
            else:
                end = _end_of_run(pieces, params, at)
                suffix, slash, rest = pieces[end], "", ""
                if converter != "path":
                    suffix, slash, rest = suffix.partition("/")
                self._runs.append((group, _Run(route, params[at:end], pieces[at + 1 : end], suffix)))
                regex += ("((?s:.*+))" if converter == "path" else "([^/]++)", re.escape(slash + rest))
                at = end
            group += 1
        if mount:
            regex.append("(?:/(?s:.*+))?+")  # (?s:) because a mount takes every sub-path, with a line feed too
        self.regex = re.compile("".join(regex))

    def match(self, path: str) -> Sequence[str] | None:
        """Return the text of each parameter in *path*, or None if the route does not match it."""
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


class _Step(NamedTuple):
    """One cut of a run, from its end.

    Attributes:
        converter: Type of the parameter that the cut frees.
        literal: Text before that parameter, backwards.
    """

    converter: str
    literal: str


class _Run:
    """Parameters that share one piece of text, with literal text between them.

    The text is searched backwards for the last literal, then for the one before it, and so on. `str.find` is linear
    for long literals too; `str.rfind` is not. In one corner it finds less than Starlette: if a parameter of type `path`
    begins the run, only its last literal is tried, even if the path holds a line feed, which `path` does not take.

    Raises:
        ValueError: The cut nearest to the end could leave out a match that Starlette finds.
    """

    __slots__ = ("_first", "_steps", "_suffix")

    def __init__(self, route: str, params: Sequence[Param], literals: Sequence[str], suffix: str) -> None:
        for index in range(1, len(params)):
            name, converter = params[index]
            left = [kind for _, kind in params[:index]]
            if not _has_certain_start(converter, literals[index - 1]) and not _all_wider(left, converter):
                raise ValueError(
                    f"route {route!r}: where parameter {name!r} begins is ambiguous; {_way_out(converter)}"
                )
        self._first = params[0][1]
        self._steps = tuple(
            _Step(converter, literal[::-1])
            for (_, converter), literal in zip(reversed(params[1:]), reversed(literals), strict=True)
        )
        self._suffix = suffix

    def cut(self, text: str) -> list[str] | None:
        """Return the text of each parameter; None if *text* does not match."""
        if not text.endswith(self._suffix):
            return None
        backwards, end = text[::-1], len(self._suffix)
        values: list[str] = []
        for converter, literal in self._steps:
            if converter == "uuid":  # has a fixed form, and may contain the text before it
                found = _UUID_BACKWARDS.match(backwards, end)
                start = found.end() if found is not None and backwards.startswith(literal, found.end()) else -1
            else:
                start = backwards.find(literal, end + (converter != "path"))
            if start < 0:
                return None
            values.append(backwards[end:start][::-1])
            end = start + len(literal)
        values.append(backwards[end:][::-1])
        values.reverse()
        converters = (self._first, *(step.converter for step in reversed(self._steps)))
        if all(_WHOLE[converter].fullmatch(value) for converter, value in zip(converters, values, strict=True)):
            return values
        return None


def _way_out(converter: str) -> str:
    if converter == "path":
        return "put a parameter of type 'path' behind a '/', after all others"
    return "put a '/' before it, or a character that none of the parameters beside it can contain"


def _has_certain_end(converter: str, literal: str, *, is_last: bool) -> bool:
    """Return whether a parameter that takes all it can ends where Starlette's does, if *literal* follows it."""
    if converter == "uuid" or (is_last and not literal):
        return True
    if not literal or converter == "path":
        return False
    return literal[0] == "/" if converter == "str" else literal[0] not in _ALPHABETS[converter]


def _end_of_run(pieces: Sequence[str], params: Sequence[Param], start: int) -> int:
    """Return the index behind the last parameter of the run that begins with parameter *start*."""
    if params[start][1] == "path":
        return len(params)
    end = start + 1
    while end < len(params) and "/" not in pieces[end]:
        end += 1
    return end


def _has_certain_start(converter: str, literal: str) -> bool:
    """Return whether only one place of *literal* can come before a parameter whose end is known."""
    if converter == "uuid":
        return True
    if converter == "path":
        return False
    if converter == "str":
        return "/" in literal
    return any(character not in _ALPHABETS[converter] for character in literal)


def _all_wider(converters: Sequence[str], converter: str) -> bool:
    """Return whether each of *converters* takes every text that *converter* takes."""
    width = _WIDTHS.get(converter)
    return width is not None and all(_WIDTHS.get(each, -1) >= width for each in converters)
