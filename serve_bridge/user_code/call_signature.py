"""The signature of a method, as calls from outside can meet it or miss it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from serve_bridge.user_code.signatures import VARIADIC

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
NO_DATA: Final = object()
"""The data of an HTTP request without a body. A Python call without data has None, which it may also mean."""
_KEYWORD: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class CallSignature:
    """A signature reduced to what a call with one value and some keywords can get wrong."""

    __slots__ = ("_any_keyword", "_bound", "_first", "_keywords", "_name", "_required", "_skips_none")

    def __init__(
        self,
        name: str,
        parameters: Sequence[inspect.Parameter],
        first: inspect.Parameter | None,
        bound: str | None,
    ) -> None:
        self._name = name
        self._bound = bound
        self._first = first.name if first is not None else None
        self._any_keyword = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self._keywords = frozenset(p.name for p in parameters if p.kind in _KEYWORD)
        self._required = frozenset(
            p.name for p in parameters if p.default is p.empty and p.kind not in VARIADIC and p is not first
        )
        # No data and None look alike: a default, or an empty *args, is what the method's author wants then.
        self._skips_none = first is not None and (first.default is not first.empty or first.kind in VARIADIC)

    def bind(self, data: Any, kwargs: Mapping[str, Any]) -> Arguments:
        """Return the arguments, or raise the TypeError that a wrong call by hand would raise."""
        has_data = data is not NO_DATA
        data = data if has_data else None
        if self._first is None:
            if data is not None:
                self._refuse("takes no data")
            args: tuple[Any, ...] = ()
        elif data is None and (self._skips_none or (self._first in kwargs and self._first in self._keywords)):
            args = ()
        elif self._first in kwargs and self._first in self._keywords:
            self._refuse(f"got {self._first!r} twice, as data and as a keyword")
        elif has_data:
            args = (data,)
        else:
            self._refuse("needs data")
        if kwargs or self._required:
            self._check_keywords(kwargs)
        return args, dict(kwargs)

    def _check_keywords(self, kwargs: Mapping[str, Any]) -> None:
        if not self._any_keyword and not self._keywords.issuperset(kwargs):
            unknown = next(name for name in kwargs if name not in self._keywords)
            self._refuse(f"takes no keyword {unknown!r}")
        if self._any_keyword and self._bound in kwargs:
            self._refuse(f"takes no keyword {self._bound!r}")
        if not self._required.issubset(kwargs):
            self._refuse(f"needs the keyword {min(self._required.difference(kwargs))!r}")

    def _refuse(self, reason: str) -> NoReturn:
        raise TypeError(f"method {self._name!r} {reason}")
