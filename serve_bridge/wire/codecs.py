"""How the arguments and results of Python calls become bytes. The role of a connection decides it, once.

Rule 1: callers with the role "forward" use `PLAIN`, in both directions. So no process unpickles their data, and they
    unpickle nothing. All other roles use `PICKLED`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from serve_bridge.wire import failure, payload, plain_values
from serve_bridge.wire.segments import Segment

Data = bytes | bytearray | memoryview


class Codec(NamedTuple):
    """One way to make bytes of values.

    Attributes:
        pack, apack: Return a value as segments; `apack` on an event loop, within the given seconds.
        unpack, aunpack: Return the value in bytes; `aunpack` on an event loop.
        pack_failure, unpack_failure: The same for an exception.
        shorten_failure: Returns an exception as few bytes, with its texts cut.
    """

    pack: Callable[[object], list[Segment]]
    apack: Callable[..., Awaitable[list[Segment]]]
    unpack: Callable[[Data], Any]
    aunpack: Callable[[Data], Awaitable[Any]]
    pack_failure: Callable[[BaseException], bytes]
    unpack_failure: Callable[[Data], BaseException]
    shorten_failure: Callable[[BaseException], bytes]


PICKLED: Final = Codec(
    payload.pack,
    payload.apack,
    payload.unpack,
    payload.aunpack,
    failure.pack,
    failure.unpack,
    failure.pack_short,
)
PLAIN: Final = Codec(
    plain_values.pack,
    plain_values.apack,
    plain_values.unpack,
    plain_values.aunpack,
    failure.pack_plain,
    failure.unpack_plain,
    failure.pack_short,
)
