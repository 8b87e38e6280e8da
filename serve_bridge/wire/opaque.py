"""Values that pass through processes without being rebuilt there."""

from __future__ import annotations

from typing import Any

from serve_bridge.wire.payload import join, pack, unpack


class Opaque:
    """A value that passes through processes without being rebuilt there; only `open` does.

    The controller holds user configuration so, since it must never import user code. Two of them are equal if their
    values have the same content; the pickles of equal values may differ.
    """

    __slots__ = ("_data", "_digest")

    def __init__(self, value: object) -> None:
        """Pack *value*; raises SerializationError if it has no pickled form."""
        # Late: a proxy moves bytes, and never looks into a value.
        from serve_bridge.user_code.fingerprint import digest

        self._data = join(pack(value))
        self._digest = digest(value)

    def open(self) -> Any:
        """Return the value, rebuilt."""
        return unpack(self._data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        return f"Opaque({len(self._data)} bytes)"
