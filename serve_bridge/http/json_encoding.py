"""Values of user code as JSON.

Bytes are UTF-8 text, a Decimal is a string, sets are lists, and a missing value of NumPy or pandas is null. NaN and
infinity are errors, since JSON has neither (RFC 8259 section 6) and null would hide a model's failure. A pydantic model
is what its `model_dump(mode="json")` gives.

Rule 1: an error names the path of the value that cannot be encoded, and its class.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from serve_bridge.errors import SerializationError
from serve_bridge.http.json_values import KEPT, SCALARS, as_known, class_of, with_text

__all__ = [
    "as_json",
]

_CONTAINERS: Final = frozenset((dict, list, tuple))
_KEYS: Final = frozenset((str, int))


def as_json(value: object) -> bytes:
    """Return *value* as JSON.

    Raises:
        SerializationError: Something in *value* cannot be encoded; the message names its path and its class.
    """
    try:
        plain = value if _is_plain(value) else _built(value)
        encoded = msgspec.json.encode(plain)
    except RecursionError:
        raise SerializationError(f"{class_of(value)} cannot be encoded: it is nested too deep, or in itself") from None
    except Exception as error:  # foreign `tolist` and `model_dump` run here
        raise _explained(value, error) from error
    # msgspec writes NaN and infinity as null: an encoding without a null holds neither.
    if b"null" in encoded and not _is_finite(plain):
        path, number = _not_finite(plain, "")
        raise SerializationError(f"the result{path} is {number!r}, which JSON cannot hold; return None, or a str")
    return encoded


def _is_plain(value: Any) -> bool:
    """Return whether *value* is made of nothing but plain lists, dicts and scalars; most results are."""
    kind = type(value)
    if kind is dict:
        if not _KEYS.issuperset(map(type, value)):
            return False
        value = value.values()
    elif kind is not list and kind is not tuple:
        return kind in SCALARS
    # One pass in C; only what is no scalar is looked into.
    odd = set(map(type, value)) - SCALARS
    if not odd:
        return True
    if not odd <= _CONTAINERS:
        return False
    return all(_is_plain(item) for item in value if type(item) in _CONTAINERS)


def _is_finite(value: Any) -> bool:
    """Return whether plain *value* holds no NaN and no infinity."""
    kind = type(value)
    if kind not in _CONTAINERS:
        return kind is not float or math.isfinite(value)
    items = value.values() if kind is dict else value
    return all(map(math.isfinite, (item for item in items if type(item) is float))) and all(
        _is_finite(item) for item in items if type(item) in _CONTAINERS
    )


def _built(value: object) -> Any:
    """Return *value* rebuilt from plain containers and scalars."""
    return with_text(msgspec.to_builtins(value, builtin_types=KEPT, enc_hook=as_known))


# Errors


def _not_finite(value: Any, path: str) -> tuple[str, float]:
    """Return the path and value of the first float in plain *value*, which holds one, that is NaN or infinite."""
    while type(value) is not float:
        step, value = next((step, item) for step, item in _entries(value) if not _is_finite(item))
        path += step
    return path, value


def _explained(value: object, error: Exception) -> SerializationError:
    """Return the error for *value*, which failed with *error*: it names the innermost part that fails by itself."""
    path = ""
    narrowed = True
    while narrowed:
        narrowed = False
        for step, part in _entries(value):
            if (failure := _failure(part)) is not None:
                value, error, path, narrowed = part, failure, path + step, True
                break
    if isinstance(error, SerializationError):
        reason = str(error)
    else:
        reason = f"{class_of(value)} cannot be encoded as JSON: {error}; return a type that can, or a Response"
    return SerializationError(f"the result{path}: {reason}")


def _failure(part: object) -> Exception | None:
    try:
        if not _is_plain(part):
            msgspec.json.encode(_built(part))
    except Exception as error:
        return error
    return None


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Iterate over the parts of *value*, each with how Python would reach it."""
    if isinstance(value, Mapping):
        yield from ((f"[{_shown_key(key)}]", item) for key, item in value.items())
    elif isinstance(value, list | tuple | deque):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif dataclasses.is_dataclass(value):
        names: Iterable[str] = (field.name for field in dataclasses.fields(value))
        yield from ((f".{name}", getattr(value, name, None)) for name in names)
    else:
        with contextlib.suppress(Exception):  # foreign code runs here; without its help the value itself is named
            inner = as_known(value)
            if type(inner) in _CONTAINERS:
                yield from _entries(inner)


def _shown_key(key: object) -> str:
    text = repr(key)
    return text if len(text) <= 40 else f"{text[:40]}..."
