"""Python values there and back."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_bridge.errors import SerializationError
from serve_bridge.wire import payload
from serve_bridge.wire.opaque import Opaque
from serve_bridge.wire.payload import LONG_PICKLE_BYTES, TooLong, is_long, pack, unpack
from serve_bridge.wire.segments import ALIGNMENT, join, size_of
from serve_bridge.wire.space import HUGE_BYTES, space_for

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


def test_every_kind_of_array_comes_back_equal(tmp_path: Path) -> None:
    """As an array of its own; one that could not be written to can still not be."""
    mapped = np.memmap(tmp_path / "m", dtype="f8", mode="w+", shape=(300, 5))
    mapped[:] = np.arange(1500).reshape(300, 5)
    frozen = np.arange(1000)
    frozen.flags.writeable = False
    records = np.array([(1, b"a"), (2, b"b")], dtype=[("n", "i4"), ("s", "S3")])
    objects = np.array([{"a": 1}, None, "x" * 1000], dtype=object)
    shapes = [np.arange(100)[::3], np.asfortranarray(np.ones((3, 4))), np.arange(12).reshape(3, 4).T, np.empty(0)]
    others = [np.float32(2.5), np.array(7), np.arange(5).astype(">i4"), np.array(["2026-11-22"], "M8[D]")]
    arrays = [mapped, frozen, records, objects, *shapes, *others]
    for array, back in zip(arrays, unpack(join(pack(arrays))), strict=True):
        assert (back.dtype, back.shape, back.tolist()) == (array.dtype, array.shape, array.tolist())
        assert isinstance(back, np.generic) or back.flags.writeable == array.flags.writeable


@pytest.mark.parametrize(
    "value",
    [
        list(range(300_000)),
        {
            "text": "é" * LONG_PICKLE_BYTES,
            "data": bytes(LONG_PICKLE_BYTES),
            "both": [bytearray(b"x" * LONG_PICKLE_BYTES)],
        },
        ([str(number) for number in range(100_000)], np.arange(1000)),
    ],
    ids=["list", "texts", "with an array"],
)
def test_a_long_pickle_comes_back_as_it_was(value: Any) -> None:
    """Written and read piece by piece; a loop that asks is told."""
    with pytest.raises(TooLong):
        pack(value, LONG_PICKLE_BYTES)
    data = join(pack(value))
    assert is_long(data)
    back = unpack(data)
    if isinstance(value, tuple):
        assert np.array_equal(back[1], value[1])
        value, back = value[0], back[0]
    assert back == value


def test_a_large_array_is_nothing_long() -> None:
    """It is not pickled at all."""
    data = join(pack(np.zeros(LONG_PICKLE_BYTES), LONG_PICKLE_BYTES))
    assert not is_long(data)


def test_long_bytes_are_not_copied() -> None:
    """They leave as the object that they are; those that can change are copied at once."""
    data, changing = bytes(LONG_PICKLE_BYTES), bytearray(LONG_PICKLE_BYTES)
    segments = pack([data, changing])
    assert any(segment is data for segment in segments)
    changing[:] = b"x" * len(changing)
    assert unpack(join(segments)) == [data, bytes(len(changing))]


def test_a_long_pickle_of_what_lives_in_main_carries_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a short one does."""
    local = type("Local", (), {"value": 42, "__module__": "__main__"})
    monkeypatch.setattr("__main__.Local", local, raising=False)
    data = join(pack([bytes(LONG_PICKLE_BYTES), local()]))
    monkeypatch.undo()
    assert unpack(data)[1].value == 42


@pytest.mark.parametrize("size", [0, 1, 70_000, HUGE_BYTES - 1, HUGE_BYTES, HUGE_BYTES + 1])
def test_space_can_be_written_to_its_end(size: int) -> None:
    """Whatever it is made of."""
    space = space_for(size)
    space[:] = b"x" * size
    assert (len(space), bytes(space[-1:])) == (size, b"x"[:size])


def test_space_that_there_is_not_is_a_memory_error() -> None:
    """As for any other object."""
    with pytest.raises(MemoryError):
        space_for(1 << 60)


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


class TimeLimit(Exception):
    """What a task queue raises in the middle of anything."""


class Interrupted:
    """Is interrupted while it is pickled, or while it is rebuilt."""

    def __init__(self, when: str) -> None:
        self.when = when

    def __getstate__(self) -> Any:
        if self.when == "packed":
            raise TimeLimit
        return {"when": self.when}

    def __setstate__(self, state: Any) -> None:
        raise TimeLimit


def test_a_time_limit_leaves_the_pickler_as_it_is() -> None:
    """Nothing tries again, and no error of ours stands in its place."""
    with pytest.raises(TimeLimit):
        pack(([], Interrupted("packed")))
    with pytest.raises(TimeLimit):
        unpack(join(pack(([], Interrupted("rebuilt")))))
