"""Several parameters of a route in one piece of a path, and the cuts between them.

Rule 1: the cuts are made from the end of the text, each in time linear in the text.
Rule 2: a run is refused if a single cut from the end could miss a match.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

_DIGITS: Final = frozenset("0123456789")
ALPHABETS: Final = {
    "int": _DIGITS,
    "float": _DIGITS | {"."},
    "uuid": _DIGITS | frozenset("abcdefABCDEF-"),
}
POSSESSIVE: Final = {
    "str": "[^/]++",
    "path": ".*+",
    "int": "[0-9]++",
    "float": r"[0-9]++(?:\.[0-9]++)?+",
    "uuid": "[0-9a-fA-F]{8}-?+[0-9a-fA-F]{4}-?+[0-9a-fA-F]{4}-?+[0-9a-fA-F]{4}-?+[0-9a-fA-F]{12}",
}
_UUID_BACKWARDS: Final = re.compile(
    "[0-9a-fA-F]{12}-?+[0-9a-fA-F]{4}-?+[0-9a-fA-F]{4}-?+[0-9a-fA-F]{4}-?+[0-9a-fA-F]{8}"
)
_WHOLE: Final = {name: re.compile(regex) for name, regex in POSSESSIVE.items()}
_WIDTHS: Final = {"path": 2, "str": 1, "int": 0}
"""Types whose texts can be cut anywhere without a change of type. A wider type takes each text of a narrower type."""
Param = tuple[str, str]
"""Name and converter of a parameter."""


class _Step(NamedTuple):
    """One cut of a run, from its end.

    Attributes:
        converter: Type of the parameter behind the cut.
        literal: Literal text before the parameter, reversed.
    """

    converter: str
    literal: str


class ParameterRun:
    """Parameters in one piece of text, with literal texts between them.

    The reversed text is searched for the last literal, then for the literal before it, and so on. `str.find` is linear
    for long literals too; `str.rfind` is not. In one case a run finds fewer matches than Starlette. If it begins with a
    parameter of type `path`, only the last place of the literal is tried, even if the path has a line feed, which a
    `path` cannot contain.

    Raises:
        ValueError: The cut nearest to the end could miss a match of Starlette.
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
            if converter == "uuid":  # match its fixed form, because a UUID may contain the literal
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


def _has_certain_start(converter: str, literal: str) -> bool:
    """Return whether only one place of *literal* is possible before a parameter with a known end."""
    if converter == "uuid":
        return True
    if converter == "path":
        return False
    if converter == "str":
        return "/" in literal
    return any(character not in ALPHABETS[converter] for character in literal)


def _all_wider(converters: Sequence[str], converter: str) -> bool:
    """Return whether each of *converters* takes every text of *converter*."""
    width = _WIDTHS.get(converter)
    return width is not None and all(_WIDTHS.get(each, -1) >= width for each in converters)
