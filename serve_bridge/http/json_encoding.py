"""Values of user code as JSON.

Bytes become text (UTF-8), a Decimal becomes a string, sets become lists, and a missing value of NumPy or pandas becomes
null. A pydantic model becomes the result of its `model_dump(mode="json")`. NaN and infinity are errors, because JSON
has neither (RFC 8259 section 6) and null would hide the failure of a model.

Rule 1: an error names the path and the class of the value that cannot be encoded.
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
        SerializationError: A part of *value* cannot be encoded. The message names its path and its class.
    """
    try:
        plain = value if _is_plain(value) else _built(value)
        encoded = msgspec.json.encode(plain)
    except RecursionError:
        raise SerializationError(f"{class_of(value)} cannot be encoded: it is nested too deep, or in itself") from None
    except Exception as error:  # `tolist` and `model_dump` of foreign classes may raise anything
        raise _explained(value, error) from error
    # msgspec writes NaN and infinity as null, so an encoding without a null has neither.
    if b"null" in encoded and not _is_finite(plain):
        path, number = _not_finite(plain, "")
        raise SerializationError(f"the result{path} is {number!r}, which JSON does not have; return None, or a str")
    return encoded


def _is_plain(value: Any) -> bool:
    """Return whether *value* consists of plain lists, dicts and scalars only, as most results do."""
    kind = type(value)
    if kind is dict:
        if not _KEYS.issuperset(map(type, value)):
            return False
        value = value.values()
    elif kind is not list and kind is not tuple:
        return kind in SCALARS
    # One pass in C finds the types. Only containers are searched further.
    odd = set(map(type, value)) - SCALARS
    if not odd:
        return True
    if not odd <= _CONTAINERS:
        return False
    return all(_is_plain(item) for item in value if type(item) in _CONTAINERS)


def _is_finite(value: Any) -> bool:
    """Return whether plain *value* has neither NaN nor infinity."""
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
    """Return the path and value of the first NaN or infinity in plain *value*, which must have one."""
    while type(value) is not float:
        step, value = next((step, item) for step, item in _entries(value) if not _is_finite(item))
        path += step
    return path, value


def _explained(value: object, error: Exception) -> SerializationError:
    """Return the error for *value*, whose encoding failed with *error*. It names the innermost failing part."""
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
    """Iterate over the parts of *value*, each with the Python expression for it."""
    if isinstance(value, Mapping):
        yield from ((f"[{_shown_key(key)}]", item) for key, item in value.items())
    elif isinstance(value, list | tuple | deque):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif dataclasses.is_dataclass(value):
        names: Iterable[str] = (field.name for field in dataclasses.fields(value))
        yield from ((f".{name}", getattr(value, name, None)) for name in names)
    else:
        with contextlib.suppress(Exception):  # code of foreign classes may raise; then the error names *value* itself
            inner = as_known(value)
            if type(inner) in _CONTAINERS:
                yield from _entries(inner)


def _shown_key(key: object) -> str:
    text = repr(key)
    return text if len(text) <= 40 else f"{text[:40]}..."
