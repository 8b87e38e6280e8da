"""A value as bytes: its head, and the buffers that are not copied into the head.

Buffers begin at multiples of `ALIGNMENT`::

    count u32 | sizes u64 * count | head | padding | buffer | padding | buffer | ...
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

Segment = bytes | memoryview

ALIGNMENT: Final = 16
"""Alignment of buffers, in bytes. Many numeric libraries are slow with unaligned arrays, or refuse them."""
_COUNT = struct.Struct("<I")


def segments_of(head: list[bytes], buffers: Sequence[memoryview]) -> list[Segment]:
    """Return a value as segments; *head* has the pieces of its head. `parts_of` reads the concatenation."""
    sizes = (sum(map(len, head)), *(buffer.nbytes for buffer in buffers))
    first = _COUNT.pack(len(sizes)) + struct.pack(f"<{len(sizes)}Q", *sizes) + head[0]
    segments: list[Segment] = [first, *head[1:]]
    end = _COUNT.size + 8 * len(sizes) + sizes[0]
    for buffer in buffers:
        segments += [bytes(-end % ALIGNMENT), buffer]
        end = buffer.nbytes  # the buffer begins aligned, so its size alone gives the next padding
    return segments


def parts_of(data: bytes | bytearray | memoryview) -> list[memoryview]:
    """Return the head of the value in *data*, and its buffers. They are views of *data*.

    Raises:
        struct.error, ValueError: *data* is incomplete.
    """
    (count,) = _COUNT.unpack_from(data)
    sizes = struct.unpack_from(f"<{count}Q", data, _COUNT.size)
    if count > 1 and isinstance(data, bytes):
        data = bytearray(data)  # an array may be written to here, as at its sender
    view = memoryview(data)
    parts, offset = [], _COUNT.size + 8 * count
    for size in sizes:
        parts.append(view[offset : offset + size])
        offset += size + -(offset + size) % ALIGNMENT
    if sum(part.nbytes for part in parts) != sum(sizes):
        raise ValueError("the data is incomplete")
    return parts


def head_size(data: bytes | bytearray | memoryview) -> int:
    """Return the size of the head of the value in *data*, in bytes."""
    size: int = struct.unpack_from("<Q", data, _COUNT.size)[0]
    return size


def size_of(segments: Sequence[Segment]) -> int:
    """Return the number of bytes in all *segments*."""
    return sum(map(_size, segments))


def join(segments: Sequence[Segment]) -> bytes:
    """Return *segments* as one bytes object."""
    first = segments[0]
    return first if len(segments) == 1 and isinstance(first, bytes) else b"".join(segments)


def _size(segment: Segment) -> int:
    return segment.nbytes if isinstance(segment, memoryview) else len(segment)
