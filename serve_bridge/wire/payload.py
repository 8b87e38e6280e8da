"""Python values as bytes: pickle protocol 5 with out-of-band buffers (PEP 574).

Rule 1: only this module and `frozen_code` unpickle. This one reads CALL frames and their answers, which travel between
    authenticated Python processes only. No data from HTTP reaches it.
Rule 2: large buffers are not copied, neither by packing nor by unpacking (see `segments`).
Rule 3: a long pickle is written and read piece by piece, so that other threads can run in between. An event loop leaves
    it to a thread; `is_long` and the argument *most* detect it.
"""

from __future__ import annotations

import asyncio
import io
import pickle
import sys
from typing import Any, Final

import cloudpickle

from serve_bridge.errors import DeadlineExceeded, SerializationError
from serve_bridge.process.class_register import share_class_register
from serve_bridge.process.engine_threads import on_engine_thread
from serve_bridge.process.pickling_errors import PICKLING_ERRORS, UNPICKLING_ERRORS
from serve_bridge.wire.segments import Segment, head_size, parts_of, segments_of

share_class_register()  # now, because a Ray worker has loaded Ray before this module

LONG_PICKLE_BYTES: Final = 512 * 1024
"""Size in bytes above which a pickle goes to a thread, because it would block the event loop for too long. Out-of-band
buffers do not count."""
_STEP: Final = 1 << 20
_LONGEST_FRAME: Final = 128 * 1024


class TooLong(Exception):
    """The pickle has become longer than the given limit."""


def pack(value: object, most: int | None = None) -> list[Segment]:
    """Return *value* as segments. `unpack` reads their concatenation.

    Raises:
        SerializationError: A part of *value* has no pickled form.
        TooLong: The pickle is longer than *most* bytes. Out-of-band buffers do not count.
    """
    buffers: list[pickle.PickleBuffer] = []
    try:
        pieces = _pickle(value, buffers, most)
        views = [buffer.raw() for buffer in buffers]
    except PICKLING_ERRORS as error:
        raise SerializationError(f"a value of type {type(value).__qualname__} cannot be pickled: {error}") from error
    return segments_of(pieces, views)


def unpack(data: bytes | bytearray | memoryview) -> Any:
    """Return the value in *data*, which `pack` has made. Large buffers in the value are views of *data*.

    Raises:
        SerializationError: A part of the value cannot be rebuilt here, for example because its class is missing.
    """
    try:
        head, *buffers = parts_of(data)
        if head.nbytes > LONG_PICKLE_BYTES:
            return pickle.Unpickler(_Source(head), buffers=buffers).load()
        return pickle.loads(head, buffers=buffers)
    except UNPICKLING_ERRORS as error:
        raise SerializationError(f"cannot rebuild the value here: {error or type(error).__name__}") from error


def unpack_plain(data: bytes) -> Any:
    """Return the value in *data* if it consists of builtin types. No class or function is looked up.

    Raises:
        SerializationError: The value has other types, or out-of-band buffers.
    """
    try:
        head, *buffers = parts_of(data)
        if buffers:
            raise ValueError("it has out-of-band buffers")
        return _PlainUnpickler(io.BytesIO(head)).load()
    except UNPICKLING_ERRORS as error:
        raise SerializationError(f"the value is not plain data: {error or type(error).__name__}") from error


def is_long(data: bytes | bytearray | memoryview) -> bool:
    """Return whether unpacking *data* could block an event loop for too long."""
    return len(data) > LONG_PICKLE_BYTES and head_size(data) > LONG_PICKLE_BYTES


async def apack(value: object, timeout_s: float | None = None) -> list[Segment]:
    """Do as `pack` does, for code on an event loop: a thread writes a long pickle.

    *value* must not change until the return.

    Raises:
        SerializationError: A part of *value* has no pickled form.
        DeadlineExceeded: Packing took longer than *timeout_s* seconds. None: there is no limit.
    """
    try:
        return pack(value, LONG_PICKLE_BYTES)
    except TooLong:
        pass
    try:
        async with asyncio.timeout(timeout_s):
            return await on_engine_thread(pack, value)
    except TimeoutError:
        raise DeadlineExceeded("the time was up before the arguments were packed", "no") from None


async def aunpack(data: bytes | bytearray | memoryview) -> Any:
    """Do as `unpack` does, for code on an event loop: a thread reads a long pickle.

    Raises:
        SerializationError: A part of the value cannot be rebuilt here.
    """
    return await on_engine_thread(unpack, data) if is_long(data) else unpack(data)


def _pickle(value: object, buffers: list[pickle.PickleBuffer], most: int | None) -> list[bytes]:
    if _is_brief(value):
        return [pickle.dumps(value, 5)]
    # Plain pickle is several times faster. But it refers to objects of __main__ by name, and the peer has another
    # __main__. So a value with such objects is packed again, by cloudpickle.
    try:
        sink = _Sink(most)
        pickle.Pickler(sink, 5, buffer_callback=buffers.append).dump(value)
        if not sink.names_main:
            return sink.pieces
    except PICKLING_ERRORS:
        pass
    buffers.clear()
    sink = _Sink(most)
    share_class_register()
    cloudpickle.Pickler(sink, 5, buffer_callback=buffers.append).dump(value)
    return sink.pieces


_BRIEF: Final = frozenset((type(None), bool, int, float))


def _is_brief(value: Any) -> bool:
    """Return whether *value* is a scalar, a short text or a few of these, as most arguments and results are."""
    for item in value[:8] if type(value) is tuple else (value,):
        kind = type(item)
        if kind not in _BRIEF and not ((kind is dict and not item) or (kind is str and len(item) < 1024)):
            return False
    return type(value) is not tuple or len(value) <= 8


class _Sink:
    """A file for the pickler. Pickle writes frames of about 64 KiB; long bytes are written whole, without a copy."""

    __slots__ = ("_left", "names_main", "pieces")

    def __init__(self, most: int | None) -> None:
        self.pieces: list[bytes] = []
        self.names_main = False
        self._left = sys.maxsize if most is None else most

    def write(self, piece: bytes) -> None:
        self._left -= len(piece)
        if self._left < 0:
            raise TooLong
        if len(piece) < _LONGEST_FRAME and b"__main__" in piece:
            self.names_main = True
        self.pieces.append(bytes(piece))  # a bytearray may change before it is sent


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler that imports nothing."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse the class or function *name* of *module*."""
        raise pickle.UnpicklingError(f"it needs {module}.{name}")


class _Source:
    """A file for the unpickler, over a long pickle."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    def read(self, size: int = -1) -> bytes:
        piece, self._data = bytes(self._data[:size]), self._data[size:]
        return piece

    def readinto(self, space: memoryview) -> int:
        size = min(len(space), len(self._data))
        for start in range(0, size, _STEP):
            end = min(start + _STEP, size)
            space[start:end] = self._data[start:end]
        self._data = self._data[size:]
        return size

    def readline(self) -> bytes:
        raise pickle.UnpicklingError("a pickle of another protocol")
