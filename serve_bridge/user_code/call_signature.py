"""The signature of a method, for calls with one value and some keywords."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from serve_bridge.user_code.signatures import VARIADIC

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
NO_DATA: Final = object()
"""The data of an HTTP request without a body. For a Python call, None means no data, or the value None."""
_KEYWORD: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class CallSignature:
    """A signature, reduced to the checks for a call with one value and some keywords."""

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
        # A Python call without data looks like a call with None. Then the default, or an empty *args, is used.
        self._skips_none = first is not None and (first.default is not first.empty or first.kind in VARIADIC)

    def bind(self, data: Any, kwargs: Mapping[str, Any]) -> Arguments:
        """Return the arguments for the method.

        Raises:
            TypeError: The method does not accept such a call.
        """
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
