"""The query parameters of a request, with the types of the caller's values."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from starlette.datastructures import ImmutableMultiDict


class QueryValues(ImmutableMultiDict[str, Any]):
    """Query parameters with Python types. A list or tuple counts as a repeated parameter."""

    def getlist(self, key: str) -> list[Any]:
        """Return all values of *key*, in order; an empty list if there is none."""
        return [value for name, value in self.multi_items() if name == key]

    def multi_items(self) -> list[tuple[str, Any]]:
        """Return all pairs in order, one for each item of a list or tuple."""
        pairs: list[tuple[str, Any]] = []
        for name, value in self._list:
            pairs.extend((name, item) for item in (value if isinstance(value, list | tuple) else (value,)))
        return pairs

    def __str__(self) -> str:
        return urlencode(self.multi_items())
