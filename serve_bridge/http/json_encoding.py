"""Values of user code as JSON.

Bytes are UTF-8 text, a Decimal is a string, sets are lists, and a missing value of NumPy or pandas is null. NaN and
infinity are errors, since JSON has neither (RFC 8259 section 6) and null would hide a model's failure. A pydantic model
is what its `model_dump(mode="json")` gives.

Rule 1: an error names the path of the value that cannot be encoded, and its class.
Rule 2: NumPy, pandas, pydantic and their like are known by the shape of their types and never imported.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set, ValuesView
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

import msgspec

from serve_bridge.errors import SerializationError

__all__ = ["as_json", "class_of"]

# What msgspec.json encodes as this module promises, without a look inside.
_SCALARS: Final = frozenset((str, int, float, bool, type(None), Decimal, UUID, datetime, date, time, timedelta))
_CONTAINERS: Final = frozenset((dict, list, tuple))
_KEYS: Final = frozenset((str, int))
_KEPT: Final = (bytes, bytearray, memoryview, Decimal, UUID, datetime, date, time, timedelta)


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


def class_of(value: object) -> str:
    """Return the full name of the class of *value*, for an error."""
    kind = type(value)
    return f"class {kind.__module__}.{kind.__qualname__}"


def _is_plain(value: Any) -> bool:
    """Return whether *value* is made of nothing but plain lists, dicts and scalars; most results are."""
    kind = type(value)
    if kind is dict:
        if not _KEYS.issuperset(map(type, value)):
            return False
        value = value.values()
    elif kind is not list and kind is not tuple:
        return kind in _SCALARS
    # One pass in C; only what is no scalar is looked into.
    odd = set(map(type, value)) - _SCALARS
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
    return _textual(msgspec.to_builtins(value, builtin_types=_KEPT, enc_hook=_foreign))


def _foreign(value: Any) -> Any:
    """Return what msgspec does not know as something that it knows."""
    kind = type(value)
    dump = getattr(kind, "model_dump", None)
    if dump is not None:
        return dump(value, mode="json")
    if kind.__name__ in _MISSING and _is_pandas(kind):  # before datetime, of which NaT is one
        return None
    if hasattr(kind, "tolist"):  # numpy arrays and scalars, tensors, pandas series, Arrow and stdlib arrays
        return _listed(value)
    for base, plain in _PLAIN_BASES:
        if isinstance(value, base):
            return plain(value)
    if isinstance(value, Mapping) or _is_row(kind):
        return dict(value)
    if hasattr(kind, "to_list"):  # polars
        return value.to_list()
    if isinstance(value, Sequence | Set | ValuesView | deque):
        return list(value)
    raise TypeError("its class is unknown")


_MISSING: Final = frozenset(("NaTType", "NAType"))


def _is_pandas(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "pandas"


def _is_row(kind: type) -> bool:
    """Return whether *kind* is a row of a database, such as `sqlite3.Row`; a data frame, by columns, is not."""
    return hasattr(kind, "keys") and hasattr(kind, "__getitem__") and not hasattr(kind, "__array__")


def _listed(value: Any) -> Any:
    """Return what `tolist` gives, with times of NumPy as times, which it would give as numbers below a microsecond."""
    listed = value.tolist()
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if kind in _TIME_UNITS and _first(listed) is int:
        return value.astype(_TIME_UNITS[kind]).tolist()
    if kind == "O" and _is_pandas(type(value)):  # NaN stands for a missing text there, and is not a result
        return [None if type(item) is float and math.isnan(item) else item for item in listed]
    return float(listed) if type(listed) is type(value) else listed  # a long double stays what it is


_TIME_UNITS: Final = {"M": "datetime64[us]", "m": "timedelta64[us]"}
"""What NumPy's kinds of times are cast to, since `tolist` gives finer ones as numbers."""


def _first(listed: Any) -> type:
    """Return the type of the first value in nested lists that is not None."""
    if not isinstance(listed, list):
        return type(listed)
    return next((kind for kind in map(_first, listed) if kind is not type(None)), type(None))


def _plain_datetime(value: datetime) -> datetime | str:
    if getattr(value, "nanosecond", 0):  # of pandas
        return value.isoformat()
    return datetime.combine(_plain_date(value), _plain_time(value.timetz()))


def _plain_date(value: date) -> date:
    return date(value.year, value.month, value.day)


def _plain_time(value: time) -> time:
    return time(value.hour, value.minute, value.second, value.microsecond, value.tzinfo, fold=value.fold)


# A subclass counts as its base; its own `__str__` or `__int__` does not.
_PLAIN_BASES: Final[tuple[tuple[type | tuple[type, ...], Callable[[Any], Any]], ...]] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (bytes, bytes.__bytes__),
    (datetime, _plain_datetime),
    (date, _plain_date),
    (time, _plain_time),
    (timedelta, lambda value: timedelta(value.days, value.seconds, value.microseconds)),
    (Decimal, Decimal),
    (UUID, lambda value: UUID(int=value.int)),
    (PurePath, str),
    ((IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network), str),
)


def _textual(value: Any) -> Any:
    """Return builtins with bytes decoded and every key a str, as JSON wants them."""
    kind = type(value)
    if kind is dict:
        return {_key(key): _textual(item) for key, item in value.items()}
    if kind is list or kind is tuple:
        return [_textual(item) for item in value]
    if kind is bytes or kind is bytearray or kind is memoryview:
        return bytes(value).decode()
    return value


def _key(key: Any) -> Any:
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, bytes):
        return key.decode()
    if type(key) in _SCALARS:
        return key
    if hasattr(type(key), "tolist"):
        return key.tolist()
    for base, plain in _PLAIN_BASES:
        if isinstance(key, base):
            return plain(key)
    raise SerializationError(f"a dict key of {class_of(key)} cannot be encoded as JSON; keys are str or numbers")


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
            inner = _foreign(value)
            if type(inner) in _CONTAINERS:
                yield from _entries(inner)


def _shown_key(key: object) -> str:
    text = repr(key)
    return text if len(text) <= 40 else f"{text[:40]}..."
