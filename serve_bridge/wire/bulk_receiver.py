"""Reading of long bodies: the kernel writes them straight to where they belong."""

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
        """Handle *data*, and the payload that was read to its place."""


class BulkReceiver(asyncio.BufferedProtocol):
    """Stands in for a connection while long bodies come in: the kernel writes them to where they belong.

    Headers are read alone, since a payload may follow that has a place.
    """

    def __init__(self, connection: Receiver, reader: FrameReader) -> None:
        self._connection = connection
        self._reader = reader
        self._header = bytearray(HEADER_BYTES)
        self.connection_lost = connection.connection_lost  # type: ignore[method-assign]
        self.pause_writing = connection.pause_writing  # type: ignore[method-assign]
        self.resume_writing = connection.resume_writing  # type: ignore[method-assign]

    def get_buffer(self, sizehint: int) -> memoryview | bytearray:
        """Return where the next bytes belong."""
        space = self._reader.space
        return self._header if space is None else space

    def buffer_updated(self, nbytes: int) -> None:
        """Hand over what is complete."""
        if self._reader.space is None:
            self._connection.bulk_received(bytes(self._header[:nbytes]))
        elif self._reader.filled(nbytes):
            self._connection.bulk_received(b"")
