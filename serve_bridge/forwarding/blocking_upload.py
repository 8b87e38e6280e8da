"""The long body of a request from a web worker's thread."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Future
from typing import Any, Final

from serve_bridge.forwarding.allowance import MAX_KEPT_BYTES
from serve_bridge.forwarding.refusals import BodyTooLarge, UploadBroken
from serve_bridge.http.readable import PIECE_BYTES, Readable
from serve_bridge.process.unbreakable_locks import UnbreakableEvent
from serve_bridge.routing.process_link import SPARE_S, overdue

TOO_SHORT: Final = "the body ended before its Content-Length"


class BlockingUpload(AsyncIterator[bytes]):
    """A body that a worker's thread reads, and the client's loop thread sends.

    The loop asks for the next piece when the replica gives credit. The worker's thread waits in `feed_until`, and reads
    the piece there.
    """

    def __init__(self, body: Readable, length: int | None, max_bytes: int | None) -> None:
        """Read *body*, with a Content-Length of *length* and at most *max_bytes* bytes; None: no length, no limit."""
        self._body = body
        self._length = length
        self._max_bytes = max_bytes
        self._read = 0
        self._before: deque[bytes] = deque()
        self._wake = UnbreakableEvent()
        self._asked: asyncio.Future[bytes] | None = None

    def read_before(self) -> None:
        """Read the body now, up to `MAX_KEPT_BYTES`. The request then takes its slot after the slow part.

        Raises:
            UploadBroken: The body cannot be read, or ends too early.
            BodyTooLarge: The body is longer than allowed.
            Exception: Any exception but OSError from `read` of the body.
        """
        if (self._length or 0) > MAX_KEPT_BYTES:
            return
        while len(self._before) * PIECE_BYTES < MAX_KEPT_BYTES:
            try:
                piece = self._next_piece()
            except OSError as broken:
                raise UploadBroken(str(broken)) from broken
            self._before.append(piece)
            if not piece:
                return

    async def __anext__(self) -> bytes:
        if self._before:
            piece = self._before.popleft()
        else:
            self._asked = asyncio.get_running_loop().create_future()
            self._wake.set()
            piece = await self._asked
        if not piece:
            raise StopAsyncIteration
        return piece

    def feed_until(self, future: Future[Any], timeout_s: float) -> Any:
        """Wait for *future* and return its result; until then, read a piece whenever the loop asks for it.

        Raises:
            DeadlineExceeded: *future* was not done within *timeout_s* and `SPARE_S`.
            Exception: The exception of *future*.
        """
        deadline = time.monotonic() + timeout_s + SPARE_S
        future.add_done_callback(lambda _: self._wake.set())
        try:
            while not future.done():
                asked, self._asked = self._asked, None
                if asked is not None:
                    self._answer(asked)
                elif self._wake.wait(deadline - time.monotonic()):
                    self._wake.clear()
                else:
                    raise overdue(timeout_s)
            return future.result()
        finally:
            future.cancel()

    def _next_piece(self) -> bytes:
        # Some servers do not stop at the end of the body, as PEP 3333 asks, but wait for more. So never read past it.
        left = PIECE_BYTES if self._length is None else min(PIECE_BYTES, self._length - self._read)
        piece = self._body.read(left) if left else b""
        self._read += len(piece)
        if not piece and self._read < (self._length or 0):
            raise UploadBroken(TOO_SHORT)
        if self._max_bytes is not None and self._read > self._max_bytes:
            raise BodyTooLarge(self._max_bytes)
        return piece

    def _answer(self, asked: asyncio.Future[bytes]) -> None:
        piece = b""
        error: Exception | None = None
        try:
            piece = self._next_piece()
        except OSError as broken:
            error = UploadBroken(str(broken))
        except Exception as raised:  # an exception of the framework returns to it through the router
            error = raised

        def settle() -> None:
            if asked.done():  # the request has ended
                return
            if error is None:
                asked.set_result(piece)
            else:
                asked.set_exception(error)

        with contextlib.suppress(RuntimeError):  # the loop is closed, and with it the request
            asked.get_loop().call_soon_threadsafe(settle)
