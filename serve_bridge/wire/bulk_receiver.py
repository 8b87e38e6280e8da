"""Reading of long bodies without a copy: the kernel writes them straight into the buffer of the body."""

from __future__ import annotations

import asyncio
from typing import Protocol

from serve_bridge.wire.frames import HEADER_BYTES, FrameReader


class Receiver(Protocol):
    """The connection that a `BulkReceiver` reads for."""

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""

    def bulk_received(self, data: bytes) -> None:
        """Handle *data*, and the payload that was read into its buffer."""


class BulkReceiver(asyncio.BufferedProtocol):
    """The protocol of a connection's transport while long bodies arrive.

    It reads each frame header alone, because the payload after it may have a buffer of its own.
    """

    def __init__(self, connection: Receiver, reader: FrameReader) -> None:
        self._connection = connection
        self._reader = reader
        self._header = bytearray(HEADER_BYTES)
        self.connection_lost = connection.connection_lost  # type: ignore[method-assign]
        self.pause_writing = connection.pause_writing  # type: ignore[method-assign]
        self.resume_writing = connection.resume_writing  # type: ignore[method-assign]

    def get_buffer(self, sizehint: int) -> memoryview | bytearray:
        """Return the buffer for the next bytes."""
        space = self._reader.space
        return self._header if space is None else space

    def buffer_updated(self, nbytes: int) -> None:
        """Give the connection each complete header or payload."""
        if self._reader.space is None:
            self._connection.bulk_received(bytes(self._header[:nbytes]))
        elif self._reader.filled(nbytes):
            self._connection.bulk_received(b"")
