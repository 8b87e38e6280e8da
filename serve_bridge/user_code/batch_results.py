"""The results of a batch: one for each of its requests."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from types import GeneratorType
from typing import Any, Final

_RESULTS: Final = (list, tuple, GeneratorType)
_ARRAY_PROTOCOL: Final = "__dlpack__"
"""Attribute of array types (the Python array API standard). Tables lack it: iterating a table gives column names."""


def batch_results(results: object, size: int) -> list[Any]:
    """Return *results* of user code for a batch as a list of *size* results.

    An array gives one result for each entry of its first dimension.

    Raises:
        TypeError: *results* is not a list, a tuple, an array of at least one dimension or a generator.
        ValueError: *results* does not have *size* items.
    """
    items = _iterated(results)
    if items is None:
        kind = type(results)
        raise TypeError(
            "batched code must return an iterable with one result for each request: a list, a tuple, an array or a "
            f"generator; for a batch size of {size} it returned {kind.__module__}.{kind.__qualname__}, "
            "which it must turn into a list"
        )
    # One item too many proves the fault. The generator may be endless, so no further item is read.
    answers = list(islice(items, size + 1))
    if len(answers) != size:
        found = f"more than {size}" if len(answers) > size else len(answers)
        raise ValueError(f"batched code must keep the batch size {size}: it returned {found} results")
    return answers


def _iterated(results: object) -> Iterator[Any] | None:
    if not isinstance(results, _RESULTS) and not hasattr(type(results), _ARRAY_PROTOCOL):
        return None
    try:
        return iter(results)  # type: ignore[call-overload, no-any-return]  # an array's type is not known here
    except TypeError:  # an array without a dimension
        return None
