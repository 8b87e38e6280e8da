"""Plain data as bytes, without pickle: what callers with the role "forward" send and get.

Rule 1: plain data is None, bool, int, float, str, bytes, list, tuple, dict and NumPy arrays of numbers and text. Values
    of other types, also of subclasses, are `NotPlain`.
Rule 2: no name, module or constructor is looked up by the content of the bytes. The type of an array is one of a fixed
    set.
Rule 3: the buffers of arrays are not copied (see `segments`).

In the msgpack, a scalar stands for itself. Any other value is a list whose first item says what it is (`_Mark`).
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final

import msgspec

from serve_bridge.errors import DeadlineExceeded, SerializationError
from serve_bridge.process.engine_threads import on_engine_thread
from serve_bridge.wire.payload import LONG_PICKLE_BYTES
from serve_bridge.wire.segments import Segment, parts_of, segments_of

_DTYPE: Final = re.compile(r"[<>|]?(?:[biufcSU][0-9]{1,9}|[mM]8(?:\[[0-9]{0,9}[A-Za-z]{1,2}\])?)")
"""The types of arrays: numbers, text, bytes, dates and durations. None of them holds Python objects."""
_SCALARS: Final = frozenset((type(None), bool, float, str, bytes))
_MALFORMED: Final = (IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError, struct.error)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class NotPlain(Exception):
    """A value is not plain data."""


class _Mark(IntEnum):
    LIST = 0
    TUPLE = 1
    DICT = 2
    INT = 3
    """An int that msgpack cannot hold, as bytes."""
    ARRAY = 4
    """A NumPy array: its type, its shape, and the number of its buffer."""


def pack(value: object) -> list[Segment]:
    """Return *value* as segments. `unpack` reads their concatenation.

    Raises:
        NotPlain: A part of *value* is not plain data.
    """
    views: list[memoryview] = []
    try:
        tree = _encode(_marked(value, views))
    except RecursionError:
        raise NotPlain("it is nested too deeply, or contains itself") from None
    except UnicodeEncodeError:
        raise NotPlain("it has text that UTF-8 cannot hold") from None
    return segments_of([tree], views)


def unpack(data: bytes | bytearray | memoryview) -> Any:
    """Return the value in *data*, which `pack` has made. Arrays are views of *data*.

    Raises:
        SerializationError: *data* is malformed, or has an array and NumPy is missing here.
    """
    try:
        tree, *buffers = parts_of(data)
        return _unmarked(_decode(tree), buffers)
    except _MALFORMED as error:
        raise SerializationError(f"cannot rebuild the value here: {error or type(error).__name__}") from error


async def apack(value: object, timeout_s: float | None = None) -> list[Segment]:
    """Do as `pack` does, for code on an event loop; *timeout_s* has the meaning that it has for `payload.apack`."""
    if timeout_s is not None and timeout_s <= 0:
        raise DeadlineExceeded("the time was up before the arguments were packed", "no")
    return pack(value)


async def aunpack(data: bytes | bytearray | memoryview) -> Any:
    """Do as `unpack` does, for code on an event loop: a thread reads long data."""
    return await on_engine_thread(unpack, data) if len(data) > LONG_PICKLE_BYTES else unpack(data)


def _marked(value: Any, views: list[memoryview]) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is int:
        if -(1 << 63) <= value < 1 << 64:
            return value
        return [_Mark.INT, value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)]
    if kind is list or kind is tuple:
        return [_Mark.LIST if kind is list else _Mark.TUPLE, *(_marked(item, views) for item in value)]
    if kind is dict:
        return [_Mark.DICT, *(_marked(part, views) for pair in value.items() for part in pair)]
    numpy = sys.modules.get("numpy")
    if numpy is not None and kind is numpy.ndarray and _DTYPE.fullmatch(value.dtype.str):
        flat = numpy.ascontiguousarray(value).reshape(-1)
        view = memoryview(flat.view(numpy.uint8) if flat.dtype.itemsize and flat.size else b"")
        views.append(view)
        return [_Mark.ARRAY, value.dtype.str, list(value.shape), len(views) - 1]
    raise NotPlain(f"it has a value of type {kind.__module__}.{kind.__qualname__}")


def _unmarked(value: Any, pieces: Sequence[memoryview]) -> Any:
    if type(value) is not list:
        if type(value) in _SCALARS or type(value) is int:
            return value
        raise ValueError(f"a {type(value).__name__} is not plain data")
    mark, rest = value[0], value[1:]
    if mark == _Mark.LIST:
        return [_unmarked(item, pieces) for item in rest]
    if mark == _Mark.TUPLE:
        return tuple([_unmarked(item, pieces) for item in rest])
    if mark == _Mark.DICT:
        parts = [_unmarked(part, pieces) for part in rest]
        return dict(zip(parts[::2], parts[1::2], strict=True))
    if mark == _Mark.INT:
        return int.from_bytes(rest[0], "little", signed=True)
    if mark == _Mark.ARRAY:
        dtype, shape, number = rest
        return _array(dtype, shape, number, pieces)
    raise ValueError("it has an unknown mark")


def _array(dtype: Any, shape: Any, number: Any, pieces: Sequence[memoryview]) -> Any:
    if not isinstance(dtype, str) or not _DTYPE.fullmatch(dtype) or type(number) is not int or number < 0:
        raise ValueError("it has a malformed array")
    try:
        import numpy as np  # late: most processes send no arrays
    except ImportError:
        raise ValueError("it has a NumPy array, and NumPy is missing here") from None
    if 0 in shape:
        return np.empty(tuple(shape), np.dtype(dtype))
    kind = np.dtype(dtype)
    if not kind.itemsize:
        return np.zeros(tuple(shape), kind)
    return np.frombuffer(pieces[number], kind).reshape(tuple(shape))
