"""The search for the part of a value which cannot be pickled, and the error which names that part.

Rule 1: the search is for failures only, because it tries to pickle part after part, which takes time.
Rule 2: an error names paths and types, never a value.
"""

from __future__ import annotations

import inspect
import io
import time
import types
from collections.abc import Iterator, Mapping
from typing import Any, Final

import cloudpickle

from serve_bridge.errors import SerializationError
from serve_bridge.process.pickling_errors import PICKLING_ERRORS

__all__ = ["kind_of", "unpicklable_arguments", "unpicklable_path", "unpicklable_result"]

_DEEPEST: Final = 50
"""Upper limit for the levels of nested parts in the search."""
_SEARCH_S: Final = 2.0
"""Upper limit in seconds for the search. After it, the error names the part found so far."""


def unpicklable_arguments(data: object, kwargs: Mapping[str, object], error: BaseException) -> SerializationError:
    """Return the error for a call whose *data* or *kwargs* cannot be pickled, as *error* says."""
    found = unpicklable_path(data, "data")
    if found is not None:
        return SerializationError(f"the data of the call cannot be pickled: {_said(found)}")
    for name, value in kwargs.items():
        found = unpicklable_path(value, name)
        if found is not None:
            return SerializationError(f"the argument {name!r} of the call cannot be pickled: {_said(found)}")
    return SerializationError(f"the arguments of the call cannot be pickled: {error}")


def unpicklable_result(backend: str, value: object, error: BaseException) -> SerializationError:
    """Return the error for *value*, a result or an item of *backend* which cannot be pickled, as *error* says."""
    found = unpicklable_path(value, "result")
    if found is None:
        return SerializationError(f"backend {backend!r} returned a {kind_of(value)}, which cannot be pickled: {error}")
    if found[1] is value:
        told = "" if _is_told(value, found[2]) else f": {found[2]}"
        return SerializationError(f"backend {backend!r} returned a {kind_of(value)}, which cannot be pickled{told}")
    return SerializationError(f"backend {backend!r} returned a {kind_of(value)} that cannot be pickled: {_said(found)}")


def unpicklable_path(value: object, name: str) -> tuple[str, object, BaseException] | None:
    """Return the path in *value* to the part which cannot be pickled, the part, and the reason; None if all can."""
    return _search(value, name, set(), time.monotonic() + _SEARCH_S)


def kind_of(value: object) -> str:
    """Return the name of the class of *value*, with its module unless the class is builtin."""
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _said(found: tuple[str, object, BaseException]) -> str:
    path, culprit, reason = found
    said = f"{path} is a {kind_of(culprit)}"
    return said if _is_told(culprit, reason) else f"{said}: {reason}"


def _is_told(culprit: object, reason: BaseException) -> bool:
    """Return whether *reason* only repeats that the class of *culprit* cannot be pickled."""
    return type(culprit).__name__ in str(reason) and "cannot pickle" in str(reason)


def _search(
    value: object, path: str, seen: set[int], until: float, depth: int = 0
) -> tuple[str, object, BaseException] | None:
    reason = _refusal(value)
    if reason is None:
        return None
    seen.add(id(value))
    for step, part in _parts(value) if depth < _DEEPEST else ():
        if time.monotonic() > until:
            break
        if id(part) not in seen:
            found = _search(part, path + step, seen, until, depth + 1)
            if found is not None:
                return found
    return path, value, reason


def _refusal(value: object) -> BaseException | None:
    try:
        cloudpickle.Pickler(_Nowhere()).dump(value)
    except PICKLING_ERRORS as error:
        return error
    return None


class _Nowhere(io.RawIOBase):
    """A file which drops its bytes, so the test of a large object takes no memory."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return len(data)


def _parts(value: object) -> list[tuple[str, object]]:
    """Return the parts of *value* in the order of pickling, each with its step of the path."""
    try:
        if inspect.isfunction(value):
            return [*_function_parts(value)]
        if inspect.isclass(value):
            return [*_attribute_parts(vars(value))]
        return [*_item_parts(value), *_state_parts(value)]
    except PICKLING_ERRORS:  # of the class's `items` or `__getstate__`: the error then names the object itself
        return []


def _item_parts(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        yield from ((f"[{key!r:.40}]", item) for key, item in value.items())
        yield from ((f" key {key!r:.40}", key) for key in value)
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif inspect.ismethod(value):
        yield ".__self__", value.__self__
        yield ".__func__", value.__func__


def _state_parts(value: object) -> Iterator[tuple[str, object]]:
    state = value.__getstate__()
    for part in state if isinstance(state, tuple) else (state,):
        if isinstance(part, dict):
            yield from ((f".{name}", item) for name, item in part.items())


def _attribute_parts(attributes: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for name, item in attributes.items():
        if name in ("__call__", "__init__") or not name.startswith("__"):
            yield f".{name}", item


def _function_parts(func: types.FunctionType) -> Iterator[tuple[str, object]]:
    variables = inspect.getclosurevars(func)
    for name, item in {**variables.nonlocals, **variables.globals}.items():
        yield f" variable {name!r}", item
    for index, item in enumerate(func.__defaults__ or ()):
        yield f" default {index}", item
    for name, item in (func.__kwdefaults__ or {}).items():
        yield f" default {name!r}", item
