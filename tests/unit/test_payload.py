"""Python values there and back."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_bridge.errors import SerializationError
from serve_bridge.wire import payload
from serve_bridge.wire.payload import ALIGNMENT, Opaque, join, pack, size_of, unpack

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    """Whatever it is made of."""
    segments = pack(value)
    data = join(segments)
    assert (unpack(data), size_of(segments)) == (value, len(data))


@given(st.lists(st.integers(0, 100), max_size=5))
def test_arrays_come_back_equal_writable_and_aligned(sizes: list[int]) -> None:
    """Out of bytes and out of a buffer alike."""
    arrays = [np.arange(size, dtype=dtype) for size in sizes for dtype in ("u1", "f8")]
    data = join(pack(arrays))
    for copy in (data, bytearray(data)):
        for array, back in zip(arrays, unpack(copy), strict=True):
            assert np.array_equal(array, back)
            assert back.flags.writeable
            assert back.ctypes.data % ALIGNMENT == 0 or not back.size


def test_large_buffers_are_not_copied() -> None:
    """They leave as views of the value, and arrive as views of what was read."""
    array = np.zeros(1 << 20)
    segments = pack(array)
    assert any(isinstance(segment, memoryview) and segment.nbytes == array.nbytes for segment in segments)
    data = bytearray(join(segments))
    back = unpack(data)
    data[-8:] = np.float64(7).tobytes()
    assert back[-1] == 7


def test_what_is_defined_on_the_spot_travels() -> None:
    """A lambda has no name to find it by."""
    assert unpack(join(pack(lambda: 42)))() == 42


@pytest.mark.parametrize("value", [threading.Lock(), (n for n in ())], ids=["lock", "generator"])
def test_what_has_no_pickled_form_is_refused_by_name(value: object) -> None:
    """The message says what it was."""
    with pytest.raises(SerializationError, match=type(value).__name__):
        pack(value)


@given(st.binary(max_size=64))
def test_bytes_that_are_no_value_raise_a_serialization_error(data: bytes) -> None:
    """Never anything else, and nothing is run."""
    with pytest.raises(SerializationError):
        unpack(b"\x01\0\0\0" + data[:8].ljust(8, b"\xff"))


@given(st.integers(0, 200))
def test_a_value_that_was_cut_short_is_an_error(kept: int) -> None:
    """Also where the cut goes through a buffer."""
    data = join(pack(np.arange(30, dtype="f8")))
    with pytest.raises(SerializationError):
        unpack(data[: min(kept, len(data) - 1)])


def test_an_opaque_value_is_opened_only_where_it_is_wanted() -> None:
    """It compares and prints without being rebuilt."""
    closed = Opaque({"secret": 1})
    assert (closed.open(), closed == Opaque({"secret": 1})) == ({"secret": 1}, True)
    assert "secret" not in repr(closed)


def test_an_opaque_value_travels() -> None:
    """It is a value itself."""
    closed = Opaque([1])
    assert unpack(join(payload.pack(closed))) == closed
