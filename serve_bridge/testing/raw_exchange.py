"""One HTTP/1.1 request and its answer. The test decides when each part is sent and received."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterable
from typing import Final, Self
from urllib.parse import urlsplit

import h11

TIMEOUT_S: Final = 15.0
_READ_BYTES: Final = 64 * 1024


class RawExchange:
    """A context manager, which closes the connection at its end. One thread may send while another receives.

    Args:
        url: The base URL of the server.
        method: The HTTP method.
        target: Path and query.
        headers: The headers without Host. Without Content-Length and Transfer-Encoding the request has no body.
    """

    def __init__(self, url: str, method: str, target: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        address = urlsplit(url)
        self._socket = socket.create_connection((address.hostname or "", address.port or 80), TIMEOUT_S)
        self._connection = h11.Connection(h11.CLIENT)
        self._lock = threading.Lock()
        host = ("host", address.netloc)
        self._write(h11.Request(method=method, target=target, headers=[host, *headers]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send a part of the body."""
        self._write(h11.Data(data=data))

    def end(self) -> None:
        """Send the end of the body."""
        self._write(h11.EndOfMessage())

    def leave(self) -> None:
        """Disconnect in the middle of the exchange."""
        with contextlib.suppress(OSError):
            # A reset instead of a close tells a server at once, even if it only writes, that the client has left.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def next_status(self) -> int:
        """Receive the next head, an informational one too; return its status.

        Raises:
            TimeoutError: No head has arrived in time.
            ConnectionError: The server has closed the connection.
        """
        event = self._next()
        if not isinstance(event, h11.InformationalResponse | h11.Response):
            raise ConnectionError("the server closed the connection without an answer")
        return int(event.status_code)

    def head(self) -> h11.Response:
        """Receive the head of the answer.

        Raises:
            TimeoutError: No head has arrived in time.
            ConnectionError: The server has closed the connection.
        """
        while not isinstance(event := self._next(), h11.Response):
            if event is h11.NEED_DATA or isinstance(event, h11.ConnectionClosed):
                raise ConnectionError("the server closed the connection without an answer")
        return event

    def read(self) -> bytes:
        """Receive the available part of the answer's body, at least one byte; b"" at its end.

        Raises:
            TimeoutError: No byte has arrived in time.
            ConnectionError: The answer broke off.
        """
        event = self._next()
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    def read_at_least(self, size: int) -> bytes:
        """Receive at least *size* bytes of the answer's body; fewer only at its end."""
        pieces, total = [], 0
        while total < size and (piece := self.read()):
            pieces.append(piece)
            total += len(piece)
        return b"".join(pieces)

    def _write(self, event: h11.Request | h11.Data | h11.EndOfMessage) -> None:
        with self._lock:
            data = self._connection.send(event)
        if data:
            self._socket.sendall(data)

    def _next(self) -> object:
        while (event := self._parse()) is h11.NEED_DATA:
            data = self._socket.recv(_READ_BYTES)
            with self._lock:
                self._connection.receive_data(data)
        return event

    def _parse(self) -> object:
        try:
            with self._lock:
                return self._connection.next_event()
        except h11.RemoteProtocolError as error:
            raise ConnectionError("the answer broke off") from error
