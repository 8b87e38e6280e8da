"""Values that pass through a process in their pickled form."""

from __future__ import annotations

from typing import Any

from serve_bridge.wire.payload import pack, unpack, unpack_plain
from serve_bridge.wire.segments import join


class Opaque:
    """A pickled value. Only `open` rebuilds it.

    The controller keeps user configuration in this form, because it must never import user code. Two objects are equal
    if their values have the same content. Their pickles may differ nevertheless.
    """

    __slots__ = ("_data", "_digest")

    def __init__(self, value: object) -> None:
        """Pack *value*; raises SerializationError if it has no pickled form."""
        # Late, because a proxy imports this module and never packs a value.
        from serve_bridge.user_code.fingerprint import digest

        self._data = join(pack(value))
        self._digest = digest(value)

    @classmethod
    def of_parts(cls, data: bytes, digest: str) -> Opaque:
        """Return the value with this `data` and this `digest`, without opening it."""
        self = cls.__new__(cls)
        self._data, self._digest = data, digest
        return self

    @property
    def data(self) -> bytes:
        """The pickled value."""
        return self._data

    @property
    def digest(self) -> str:
        """The digest of the content of the value."""
        return self._digest

    def open(self) -> Any:
        """Return the value, rebuilt."""
        return unpack(self._data)

    def plain(self) -> Any:
        """Return the value, rebuilt, if it consists of builtin types; raises SerializationError otherwise."""
        return unpack_plain(self._data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        return f"Opaque({len(self._data)} bytes)"
