"""One request of a WSGI application: its body in, its answer out, between a thread and the loop."""

from __future__ import annotations

import asyncio
import io
import logging
import shutil
from collections.abc import Coroutine
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Final, TypeVar

import msgspec

from serve_bridge.http.answers import fit_head, is_bodyless
from serve_bridge.http.headers import HeaderList
from serve_bridge.replica.request_body import IncomingBody
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.heads import INLINE_BODY_BYTES, HttpAnswer, HttpHead, encode_head
from serve_bridge.wire.replica_end import ReplicaStream

_logger = logging.getLogger("serve_bridge.replica")

_Result = TypeVar("_Result")
SPOOL_BYTES: Final = 1024 * 1024
"""Upper limit in bytes for a body of unknown length in memory. A longer one is kept in a temporary file."""


class WsgiRequest:
    """One request, as the thread that answers it reads its body and sends its answer.

    Attributes:
        head: The head of the request.
        left: Whether the client left while its body was being read.
        length: Length of the body in bytes; None if it is not known yet.
    """

    def __init__(self, head: HttpHead, stream: ReplicaStream) -> None:
        """Take the request. This must run on the replica's loop."""
        self.head = head
        self.left = False
        self.length = head.body_length
        self._body = IncomingBody(stream) if stream.has_body else None
        self._spooled: IO[bytes] | None = None
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._has_no_body = head.method == "HEAD"
        self._answer_length: int | None = None
        self._sent = 0
        self._started = self._ended = False
        self._answer: HttpAnswer | None = None

    def receive(self) -> None:
        """Receive the body if its length is unknown, because the application needs the length first.

        Raises:
            ConnectionResetError: The client has left.
        """
        if self.length is None and self._body is not None:
            self._spooled = SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115  # `close` closes it
            shutil.copyfileobj(self._received(self._body), self._spooled, INLINE_BODY_BYTES)
            self.length = self._spooled.tell()
            self._spooled.seek(0)

    def close(self) -> None:
        """Close the temporary file, if there is one."""
        if self._spooled is not None:
            self._spooled.close()

    def wait(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run *work* on the loop and return its result.

        Raises:
            Lost: The client has left.
        """
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def input(self) -> IO[bytes]:
        """Return the request's body as a file."""
        if self._spooled is not None:
            return self._spooled
        return io.BytesIO(self.head.body) if self._body is None else self._received(self._body)

    def _received(self, body: IncomingBody) -> IO[bytes]:
        return io.BufferedReader(_Input(self, body), INLINE_BODY_BYTES)

    def begin(self, status: int, headers: HeaderList) -> None:
        """Take the answer's head. It is sent with the first piece of the body, or with the end.

        Raises:
            SerializationError: The head cannot be sent.
        """
        status, headers = fit_head(status, headers)
        self._answer = HttpAnswer(status, headers, b"")
        self._has_no_body = self._has_no_body or is_bodyless(status)
        self._answer_length = next((int(value) for name, value in headers if name == b"content-length"), None)

    def send(self, data: bytes) -> None:
        """Send a piece of the body, and wait while the client is slow to receive.

        Raises:
            Lost: The client has left, or the answer has no body.
        """
        if self._ended and (self._has_no_body or self._answer_length is None):
            raise Lost("unknown", "the answer has no body")
        if self._answer_length is not None and not self._has_no_body and self._sent + len(data) > self._answer_length:
            _logger.warning("request %s: an answer longer than its Content-Length was cut", self.head.request_id)
            data = data[: self._answer_length - self._sent]
        if self._ended:
            return
        self._sent += len(data)
        # The answer ends at the declared length, because the iterable of the application may end much later.
        self._put(data, end=self._sent == self._answer_length)

    def end(self) -> None:
        """End the answer.

        Raises:
            RuntimeError: The body is shorter than its Content-Length.
        """
        if self._ended:
            return
        if self._answer_length is not None and not self._has_no_body and self._sent < self._answer_length:
            raise RuntimeError(f"the answer has {self._sent} bytes where Content-Length says {self._answer_length}")
        self._put(b"", end=True)

    def _put(self, data: bytes, *, end: bool) -> None:
        assert self._answer is not None
        if self._has_no_body:
            data, end = b"", True
        self._ended = end
        if not self._started and end and len(data) <= INLINE_BODY_BYTES:
            self._started = True
            whole = encode_head(HttpAnswer(self._answer.status, self._answer.headers, data))
            # This thread need not wait for the loop, so the application can go on at once.
            self._loop.call_soon_threadsafe(lambda: self._stream.respond(whole, end=True))
            return
        self.wait(self._send(data, end=end))

    async def _send(self, data: bytes, *, end: bool) -> None:
        if not self._started:
            assert self._answer is not None
            self._started = True
            head = msgspec.structs.replace(self._answer, complete=end)
            self._stream.respond(encode_head(head), end=False)
        await self._stream.send_segments([data] if data else [], end=end)


class _Input(io.RawIOBase):
    """A body in pieces. The loop passes each one to the reading thread."""

    def __init__(self, request: WsgiRequest, body: IncomingBody) -> None:
        self._request = request
        self._body = body
        self._rest = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest and not self._ended:
            try:
                chunk = self._request.wait(self._body.next())
            except Lost as error:
                self._request.left = True
                raise ConnectionResetError("the client left during its upload") from error
            self._ended = chunk is None
            self._rest = memoryview(chunk or b"")
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size
