"""Values of user code, converted to plain Python values for JSON.

Rule 1: values of NumPy, pandas, pydantic and similar libraries are recognised by the attributes of their types. The
    libraries are never imported.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set, ValuesView
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

from serve_bridge.errors import SerializationError

# Types that msgspec.json encodes in the promised form.
SCALARS: Final = frozenset((str, int, float, bool, type(None), Decimal, UUID, datetime, date, time, timedelta))
KEPT: Final = (bytes, bytearray, memoryview, Decimal, UUID, datetime, date, time, timedelta)


def class_of(value: object) -> str:
    """Return the full name of the class of *value*, for an error."""
    kind = type(value)
    return f"class {kind.__module__}.{kind.__qualname__}"


def as_known(value: Any) -> Any:
    """Return *value*, whose type msgspec does not know, as a value of a type that it knows."""
    kind = type(value)
    dump = getattr(kind, "model_dump", None)
    if dump is not None:
        return dump(value, mode="json")
    if kind.__name__ in _MISSING and _is_pandas(kind):  # before datetime, because NaT is a datetime
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
    """Return whether *kind* is a row of a database, such as `sqlite3.Row`. A data frame has columns, so it is not."""
    return hasattr(kind, "keys") and hasattr(kind, "__getitem__") and not hasattr(kind, "__array__")


def _listed(value: Any) -> Any:
    """Return the result of `tolist`, but with datetimes for NumPy's times. `tolist` gives numbers for nanoseconds."""
    listed = value.tolist()
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if kind in _TIME_UNITS and _first(listed) is int:
        return value.astype(_TIME_UNITS[kind]).tolist()
    if kind == "O" and _is_pandas(type(value)):  # in a column of texts, NaN means a missing text
        return [None if type(item) is float and math.isnan(item) else item for item in listed]
    return float(listed) if type(listed) is type(value) else listed  # `tolist` does not convert a long double


_TIME_UNITS: Final = {"M": "datetime64[us]", "m": "timedelta64[us]"}
"""Types to which NumPy's times are cast, because `tolist` gives numbers for finer ones."""


def _first(listed: Any) -> type:
    """Return the type of the first value in nested lists, ignoring None."""
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


# A value of a subclass is encoded as its base class would be; its own `__str__` or `__int__` is ignored.
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


def with_text(value: Any) -> Any:
    """Return *value*, which is made of builtins, with its bytes decoded and its keys converted for JSON."""
    kind = type(value)
    if kind is dict:
        return {_key(key): with_text(item) for key, item in value.items()}
    if kind is list or kind is tuple:
        return [with_text(item) for item in value]
    if kind is bytes or kind is bytearray or kind is memoryview:
        return bytes(value).decode()
    return value


def _key(key: Any) -> Any:
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, bytes):
        return key.decode()
    if type(key) in SCALARS:
        return key
    if hasattr(type(key), "tolist"):
        return key.tolist()
    for base, plain in _PLAIN_BASES:
        if isinstance(key, base):
            return plain(key)
    raise SerializationError(f"a dict key of {class_of(key)} cannot be encoded as JSON; keys are str or numbers")
