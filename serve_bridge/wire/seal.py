"""Authentication of the data on a TCP connection, record by record."""

from __future__ import annotations

import hmac
import struct
from typing import Final, Protocol

from serve_bridge.errors import ProtocolError


class Records(Protocol):
    """The protection of one direction of a TCP connection."""

    def close(self, data: bytes) -> bytes:
        """Return *data* as records for the peer."""

    def open(self, data: bytes) -> bytes:
        """Return the data of the records that *data* completes.

        Raises:
            ProtocolError: A record was changed, dropped, repeated or moved.
        """


class Seal:
    """The MACs of one direction of a TCP connection. A record is: length u32 | MAC 16 | data."""

    LIMIT: Final = 256 << 10
    """Upper limit for the data of one record, in bytes. Longer data is split into several records."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._count = 0
        self._rest = b""

    def close(self, data: bytes) -> bytes:
        """Return *data* as records. Only the peer's seal of this direction accepts them, and only in this order."""
        pieces: list[bytes] = []
        for start in range(0, len(data), self.LIMIT):
            piece = data[start : start + self.LIMIT]
            pieces += (struct.pack("<I", len(piece)), self._mac(piece), piece)
        return b"".join(pieces)

    def open(self, data: bytes) -> bytes:
        """Return the data of the records that *data* completes.

        Raises:
            ProtocolError: A record was changed, dropped, repeated or moved.
        """
        data = self._rest + data
        opened, offset = [], 0
        while len(data) - offset >= 20:
            (length,) = struct.unpack_from("<I", data, offset)
            if length > self.LIMIT:
                raise ProtocolError(f"record of {length} bytes; the limit is {self.LIMIT}")
            end = offset + 20 + length
            if end > len(data):
                break
            piece = data[offset + 20 : end]
            if not hmac.compare_digest(data[offset + 4 : offset + 20], self._mac(piece)):
                raise ProtocolError("a record's MAC does not fit")
            opened.append(piece)
            offset = end
        self._rest = data[offset:]
        return b"".join(opened)

    def _mac(self, piece: bytes) -> bytes:
        self._count += 1
        return hmac.digest(self._key, self._count.to_bytes(8, "little") + piece, "sha256")[:16]
