"""Plain data as bytes: what callers with the role "forward" send and get."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import enum
import os
import pickle
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_bridge.errors import BackendError, SerializationError
from serve_bridge.wire import failure, payload
from serve_bridge.wire.codecs import PICKLED, PLAIN
from serve_bridge.wire.heads import encode_head
from serve_bridge.wire.plain_values import NotPlain, aunpack, pack, unpack
from serve_bridge.wire.segments import join

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
KEYS = st.text() | st.integers() | st.booleans() | st.tuples(st.integers(), st.text())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner),
    max_leaves=20,
)


def through(value: object) -> Any:
    """Return *value* as its receiver gets it."""
    return unpack(join(pack(value)))


def same_types(one: Any, other: Any) -> bool:
    """Return whether both values and all their parts are of the same types."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return all(map(same_types, [*one, *one.values()], [*other, *other.values()]))
    return not isinstance(one, list | tuple) or all(map(same_types, one, other))


@given(VALUES)
def test_plain_data_arrives_as_it_was(value: object) -> None:
    """A tuple stays a tuple, and an int of any size an int."""
    found = through(value)
    assert found == value
    assert same_types(found, value)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.arange(12).reshape(3, 4).T,
        np.arange(6, dtype=">i4"),
        np.array(5.0),
        np.empty((0, 3), np.uint8),
        np.array(["a", "bcd"]),
        np.array([b"a", b"bcd"]),
        np.array(["2026-01-01"], "M8[D]"),
        np.array([True, False]),
        np.array([1j]),
        np.zeros(3, np.float16),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
def test_an_array_arrives_as_it_was(array: Any) -> None:
    """Its type and its shape too, and it can be changed."""
    ((found,), same) = through(([array], "same"))
    assert (found.dtype, found.shape, same) == (array.dtype, array.shape, "same")
    assert np.array_equal(found, array)
    assert found.flags.writeable


def test_the_buffer_of_an_array_is_not_copied() -> None:
    """Neither when it is packed nor when it is unpacked."""
    array = np.arange(1000.0)
    segments = pack([array])
    assert any(np.shares_memory(np.frombuffer(each, np.uint8), array) for each in segments if len(each) == array.nbytes)
    data = bytearray(join(segments))
    (found,) = unpack(data)
    assert np.shares_memory(found, np.frombuffer(data, np.uint8))


class Text(str):
    """A str of another type."""


class Colour(enum.IntEnum):
    """An int of another type."""

    RED = 1


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        bytearray(b"x"),
        Text("x"),
        Colour.RED,
        Point(1, 2),
        collections.OrderedDict(),
        np.float64(1.0),
        np.array([object()]),
        np.zeros(1, "i4,i4"),
        len,
        ValueError("x"),
        "\ud800",
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_data_is_refused(value: object) -> None:
    """Deep inside other values too."""
    for each in (value, {"a": [(value,)]}):
        with pytest.raises(NotPlain):
            pack(each)


def test_data_that_contains_itself_is_refused() -> None:
    """It has no end."""
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(NotPlain, match="contains itself"):
        pack(endless)


@given(st.binary(max_size=200))
def test_any_bytes_are_data_or_an_error(data: bytes) -> None:
    """A hostile caller may send them."""
    try:
        unpack(data)
    except SerializationError:
        return


WIRE_INTEGERS = st.integers(-(1 << 63), (1 << 64) - 1)
"""The integers that msgpack has."""
WIRE_SCALARS = st.none() | st.booleans() | WIRE_INTEGERS | st.floats(allow_nan=False) | st.text() | st.binary()
TREES = st.recursive(
    WIRE_SCALARS | st.sampled_from(["<f8", "|O", "<U4", "i4,i4", "|V8"]), lambda inner: st.lists(inner)
)


@given(TREES)
def test_any_tree_is_data_or_an_error(tree: object) -> None:
    """So are bytes that are well-formed up to the marks."""
    body = msgspec.msgpack.encode(tree)
    try:
        unpack((1).to_bytes(4, "little") + len(body).to_bytes(8, "little") + body)
    except SerializationError:
        return


def hostile(tree: object, *buffers: bytes) -> bytes:
    """Return the bytes of a caller that makes them by itself."""
    body = msgspec.msgpack.encode(tree)
    sizes = (len(body), *map(len, buffers))
    head = len(sizes).to_bytes(4, "little") + b"".join(size.to_bytes(8, "little") for size in sizes)
    data = head + body
    for buffer in buffers:
        data += bytes(-len(data) % 16) + buffer
    return data


@pytest.mark.parametrize(
    "tree",
    [
        [4, "|O", [1], 0],
        [4, "O", [1], 0],
        [4, "<f8", [1 << 60], 0],
        [4, "<f8", [-1], 0],
        [4, "<f8", [1], 1],
        [4, "<f8", [1], -1],
        [4, "i4,i4", [1], 0],
        [4, "|V8", [1], 0],
        [4, ["<f8"], [1], 0],
        [4],
        [2, "a"],
        [2, [0], 1],
        [9],
        [],
        {"a": 1},
    ],
    ids=repr,
)
def test_a_malformed_value_is_an_error(tree: object) -> None:
    """An array of objects would be a set of pointers that the caller chooses."""
    with pytest.raises(SerializationError):
        unpack(hostile(tree, bytes(4)))


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    """It runs nothing, wherever it is."""
    bomb = join(payload.pack(Bomb(tmp_path / "ran")))
    for data in (bomb, hostile([0, bomb]), hostile([0], bomb)):
        with contextlib.suppress(SerializationError):
            unpack(data)
    failed = failure._Failure("X", "text", "trace", bomb)
    assert isinstance(PLAIN.unpack_failure(encode_head(failed)), BackendError)
    assert not (tmp_path / "ran").exists()
    PICKLED.unpack(bomb)
    assert (tmp_path / "ran").exists()


class Bomb:
    """It makes a directory where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self._path),))


def test_an_exception_arrives_with_its_name_and_text() -> None:
    """Not as itself, which would need a pickle."""
    error = PLAIN.unpack_failure(PLAIN.pack_failure(LookupError("not here")))
    assert isinstance(error, BackendError)
    assert "LookupError" in str(error)
    assert "not here" in str(error)
    assert pickle.dumps(LookupError("not here"))[:20] not in PLAIN.pack_failure(LookupError("not here"))
    assert isinstance(PLAIN.unpack_failure(PLAIN.pack_failure(SerializationError("x"))), SerializationError)


def test_long_data_is_read_on_a_thread() -> None:
    """So that the loop goes on."""
    value = [b"x" * (1 << 20)]
    assert asyncio.run(aunpack(join(pack(value)))) == value
