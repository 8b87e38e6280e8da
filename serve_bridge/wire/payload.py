"""Python values as bytes: pickle protocol 5 with out-of-band buffers (PEP 574).

Rule 1: beside `frozen_code` this is the one module of the package that unpickles. It is reached from CALL frames
    and their answers, which travel between authenticated Python peers only; nothing that came in as HTTP gets here.
Rule 2: large buffers are neither copied when packed nor when unpacked, and begin at multiples of `ALIGNMENT`.

::

    count u32 | sizes u64 * count | pickle | padding | buffer | padding | buffer | ...
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from typing import Any, Final

import cloudpickle

from serve_bridge.errors import SerializationError

Segment = bytes | memoryview

ALIGNMENT: Final = 16
"""Arrays that are not aligned are slow, or refused, in much of the numeric world."""
_COUNT = struct.Struct("<I")


def pack(value: object) -> list[Segment]:
    """Return *value* as segments whose concatenation `unpack` reads.

    Raises:
        SerializationError: Something in *value* has no pickled form.
    """
    buffers: list[pickle.PickleBuffer] = []
    try:
        data = _dumps(value, buffers)
        views = [buffer.raw() for buffer in buffers]
    except Exception as error:  # whatever a user's __reduce__ raises
        raise SerializationError(f"cannot serialise {type(value).__name__}: {error}") from error
    sizes = (len(data), *(view.nbytes for view in views))
    head = _COUNT.pack(len(sizes)) + struct.pack(f"<{len(sizes)}Q", *sizes)
    segments: list[Segment] = [head + data]
    for before, view in zip([segments[0], *views], views, strict=False):
        segments += [bytes(-_size(before) % ALIGNMENT), view]
    return segments


def unpack(data: bytes | bytearray | memoryview) -> Any:
    """Return the value that `pack` has packed; large buffers in it are views of *data*.

    Raises:
        SerializationError: Something in it cannot be rebuilt here: a class that is missing or differs, say.
    """
    try:
        (count,) = _COUNT.unpack_from(data)
        sizes = struct.unpack_from(f"<{count}Q", data, _COUNT.size)
        if count > 1 and isinstance(data, bytes):
            data = bytearray(data)  # what could be written to where it came from can be written to here
        view = memoryview(data)
        pieces, offset = [], _COUNT.size + 8 * count
        for size in sizes:
            pieces.append(view[offset : offset + size])
            offset += size + -(offset + size) % ALIGNMENT
        if sum(piece.nbytes for piece in pieces) != sum(sizes):
            raise ValueError("it is cut short")
        return pickle.loads(pieces[0], buffers=pieces[1:])
    except Exception as error:  # whatever a user's __setstate__ or import raises
        raise SerializationError(f"cannot rebuild the value here: {error or type(error).__name__}") from error


def size_of(segments: Sequence[Segment]) -> int:
    """Return how many bytes *segments* have together."""
    return sum(map(_size, segments))


def join(segments: Sequence[Segment]) -> bytes:
    """Return *segments* as one bytes object."""
    first = segments[0]
    return first if len(segments) == 1 and isinstance(first, bytes) else b"".join(segments)


def _size(segment: Segment) -> int:
    return segment.nbytes if isinstance(segment, memoryview) else len(segment)


def _dumps(value: object, buffers: list[pickle.PickleBuffer]) -> bytes:
    # Plain pickle is several times faster, but names what lives in __main__ instead of carrying it.
    try:
        data = pickle.dumps(value, 5, buffer_callback=buffers.append)
        if b"__main__" not in data:
            return data
    except Exception:
        pass
    buffers.clear()
    return bytes(cloudpickle.dumps(value, 5, buffer_callback=buffers.append))


class Opaque:
    """A value that passes through processes without being rebuilt there; only `open` does.

    The controller holds user configuration so, since it must never import user code.
    """

    __slots__ = ("_data",)

    def __init__(self, value: object) -> None:
        """Pack *value*; raises SerializationError if it has no pickled form."""
        self._data = join(pack(value))

    def open(self) -> Any:
        """Return the value, rebuilt."""
        return unpack(self._data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque) and self._data == other._data

    def __hash__(self) -> int:
        return hash(self._data)

    def __repr__(self) -> str:
        return f"Opaque({len(self._data)} bytes)"
