"""Forwarding for a web worker's thread: the request's body is read from a file, the answer's comes as an iterator.

Rule 1: a short body goes over the thread's own blocking socket, straight to the replica; a longer one through the
        client's loop thread, piece by piece as the replica gives credit.
Rule 2: only the worker's own thread reads the body, so that nobody does once it has gone on to its next request.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

from serve_bridge.errors import InstanceClosed, ProtocolError, ServeBridgeError
from serve_bridge.forwarding.allowance import MOST_KEPT_BYTES, WORKER, Kept
from serve_bridge.forwarding.declared_length import DeclaredLength, WholeBody, declared_length
from serve_bridge.forwarding.refusals import BodyTooLarge, UploadBroken
from serve_bridge.forwarding.reply import Reply, forward, read_head
from serve_bridge.forwarding.request import Forwarded
from serve_bridge.http.answers import AnswerBroken
from serve_bridge.http.headers import HeaderList
from serve_bridge.http.readable import PIECE_BYTES, Readable
from serve_bridge.routing.blocking_calls import DirectAnswer
from serve_bridge.routing.channel import Lane
from serve_bridge.routing.process_link import SPARE_S, Link, overdue
from serve_bridge.wire.heads import INLINE_BODY_BYTES, HttpFailure

_TOO_SHORT: Final = "the body ended before its Content-Length"


class Head:
    """The head of an answer, and its body: all of it, or an iterator that must be closed.

    Attributes:
        status, headers, body, failure: As those of `forwarding.Reply`.
    """

    __slots__ = ("body", "failure", "headers", "status")

    def __init__(
        self, status: int, headers: HeaderList, body: bytes | WholeBody | _Chunks, failure: HttpFailure | None
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.failure = failure


def forward_blocking(
    link: Link,
    request: Forwarded,
    body: bytes | Readable,
    *,
    length: int | None,
    most: int | None,
) -> Head:
    """Send *request* with *body* and return the answer, as soon as its head is there.

    Args:
        link: The client.
        request: Its head.
        body: All of its body, or where it is read from.
        length: How long the body says it is; None: that is not known.
        most: The longest that may pass.

    Raises:
        ServeBridgeError: As `Router.route`.
        Refused: The client is to blame.
    """
    timeout_s = request.timeout_s
    if most is not None and (length or 0) > most:
        raise BodyTooLarge(most)
    if isinstance(body, bytes):
        request.take_body(body)
    elif length is not None and length <= INLINE_BODY_BYTES:
        began = time.monotonic()
        request.take_body(_read(body, length))
        request.timeout_s -= time.monotonic() - began
    else:
        began = time.monotonic()
        upload = _Upload(body, length, most)
        request.stream_body(upload, length)
        if link.needs_whole_body(request, request.method_name):
            upload.read_before()
        request.timeout_s -= time.monotonic() - began
        reply = upload.feed_until(link.begin(partial(_forward, request)), timeout_s)
        return _looped(link, request, reply, timeout_s, upload)
    answer = link.send(request)
    if answer is None:
        return _looped(link, request, link.run(partial(_forward, request), timeout_s), timeout_s)
    try:
        head, headers = read_head(answer.head, request)
    except ProtocolError:
        answer.close()
        raise
    length = declared_length(request, head.status, headers)
    if answer.ended:
        return _whole(head.status, headers, head.body + answer.read(), head.failure, length)
    kept = Kept(WORKER)
    if head.complete and length is not None and kept.take(length):
        with contextlib.suppress(ServeBridgeError):  # the answer breaks off where it is read
            answer.receive(length)
    return Head(head.status, headers, _DirectChunks(answer, length, kept), head.failure)


async def _forward(request: Forwarded, lane: Lane) -> Reply:
    return await forward(lane.router, request)


def _looped(link: Link, request: Forwarded, reply: Reply, timeout_s: float, upload: _Upload | None = None) -> Head:
    length = declared_length(request, reply.status, reply.headers)
    if reply.body is not None:
        return _whole(reply.status, reply.headers, reply.body, reply.failure, length)
    return Head(reply.status, reply.headers, _LoopedChunks(link, reply, timeout_s, upload, length), reply.failure)


def _whole(status: int, headers: HeaderList, body: bytes, failure: HttpFailure | None, length: int | None) -> Head:
    is_right = length is None or length == len(body)
    return Head(status, headers, body if is_right else WholeBody(body, length or 0), failure)


def _read(body: Readable, length: int) -> bytes:
    """Return all of *body*.

    Raises:
        UploadBroken: It ended before that.
    """
    pieces = []
    while length:
        try:
            piece = body.read(length)
        except OSError as broken:
            raise UploadBroken(str(broken)) from broken
        if not piece:
            raise UploadBroken(_TOO_SHORT)
        pieces.append(piece)
        length -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


# the answer's body


class _Chunks(Iterator[bytes]):
    """An answer's body in a web worker's thread; WSGI servers close it in every case.

    Args:
        length: Its declared length.
    """

    def __init__(self, length: int | None) -> None:
        self._length = DeclaredLength(length)

    def __next__(self) -> bytes:
        try:
            piece = self._next()
            if piece is not None:
                return self._length.take(piece)
            self._length.end()
        except AnswerBroken:
            self.close()
            raise
        raise StopIteration

    def _next(self) -> bytes | None:
        """Return the next piece; None after the last.

        Raises:
            AnswerBroken: It will not come.
        """
        raise NotImplementedError  # abstract

    def close(self) -> None:
        """Give up what has not come."""
        raise NotImplementedError  # abstract


class _DirectChunks(_Chunks):
    """One that comes over the thread's own socket, or has come and is *kept*."""

    def __init__(self, answer: DirectAnswer, length: int | None, kept: Kept) -> None:
        super().__init__(length)
        self._answer = answer
        self._kept = kept

    def _next(self) -> bytes | None:
        try:
            return self._answer.next_part()
        except ServeBridgeError as error:
            raise AnswerBroken("the answer broke off") from error

    def close(self) -> None:
        self._answer.close()
        self._kept.give_back()


class _LoopedChunks(_Chunks):
    """One that comes on the client's loop thread, perhaps while the request's own body is still being sent."""

    def __init__(self, link: Link, reply: Reply, timeout_s: float, upload: _Upload | None, length: int | None) -> None:
        super().__init__(length)
        self._link = link
        self._reply = reply
        self._timeout_s = timeout_s
        self._upload = upload
        self._chunks = reply.chunks()

    def _next(self) -> bytes | None:
        async def step(_: Lane) -> bytes | None:
            return await anext(self._chunks, None)

        if self._upload is None:
            chunk: bytes | None = self._link.run(step, self._timeout_s)
        else:
            chunk = self._upload.feed_until(self._link.begin(step), self._timeout_s)
        if chunk is None:
            self.close()
        return chunk

    def close(self) -> None:
        async def close(_: Lane) -> None:
            await self._chunks.aclose()
            self._reply.close()

        with contextlib.suppress(InstanceClosed):  # then nothing comes any more
            self._link.run(close, self._timeout_s)


# the request's body


class _Upload(AsyncIterator[bytes]):
    """A body that the loop thread asks for, piece by piece, and the worker's thread reads while it waits."""

    def __init__(self, body: Readable, length: int | None, most: int | None) -> None:
        self._body = body
        self._length = length
        self._most = most
        self._read = 0
        self._before: deque[bytes] = deque()
        self._news = threading.Event()
        self._asked: asyncio.Future[bytes] | None = None

    def read_before(self) -> None:
        """Read what may be kept of the body now, so that the backend's slot does not wait for the client.

        Raises:
            Exception: As `read` of the body; a broken one is `UploadBroken`.
        """
        if (self._length or 0) > MOST_KEPT_BYTES:
            return
        while len(self._before) * PIECE_BYTES < MOST_KEPT_BYTES:
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
            if not piece:
                raise StopAsyncIteration
            return piece
        self._asked = asyncio.get_running_loop().create_future()
        self._news.set()
        piece = await self._asked
        if not piece:
            raise StopAsyncIteration
        return piece

    def feed_until(self, future: Future[Any], timeout_s: float) -> Any:
        """Wait for *future* and return its result; read whatever is asked for meanwhile."""
        deadline = time.monotonic() + timeout_s + SPARE_S
        future.add_done_callback(lambda _: self._news.set())
        try:
            while not future.done():
                asked, self._asked = self._asked, None
                if asked is not None:
                    self._answer(asked)
                elif self._news.wait(deadline - time.monotonic()):
                    self._news.clear()
                else:
                    raise overdue(timeout_s)
            return future.result()
        finally:
            future.cancel()

    def _next_piece(self) -> bytes:
        # No further than its end: not every server stops there (PEP 3333 says it should), some wait for more.
        left = PIECE_BYTES if self._length is None else min(PIECE_BYTES, self._length - self._read)
        piece = self._body.read(left) if left else b""
        self._read += len(piece)
        if not piece and self._read < (self._length or 0):
            raise UploadBroken(_TOO_SHORT)
        if self._most is not None and self._read > self._most:
            raise BodyTooLarge(self._most)
        return piece

    def _answer(self, asked: asyncio.Future[bytes]) -> None:
        piece = b""
        error: Exception | None = None
        try:
            piece = self._next_piece()
        except OSError as broken:
            error = UploadBroken(str(broken))
        except Exception as own:  # the framework's own refusals go back to it through the router
            error = own

        def settle() -> None:
            if asked.done():  # the request has ended meanwhile
                return
            if error is None:
                asked.set_result(piece)
            else:
                asked.set_exception(error)

        with contextlib.suppress(RuntimeError):  # the loop has been closed, and with it all that waited
            asked.get_loop().call_soon_threadsafe(settle)
