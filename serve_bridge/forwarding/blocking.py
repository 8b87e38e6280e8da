"""Forwarding in a web worker's thread: the request's body is read from a file, and the answer's body is an iterator.

Rule 1: A request with a short body leaves on the thread's own blocking socket. A longer body passes through the
    client's loop thread, which asks for a piece when the replica gives credit.
Rule 2: Only the worker's own thread reads the body. So no other thread reads it after the worker has gone on to its
    next request.
"""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import TypeAlias

from serve_bridge.errors import InstanceClosed, ProtocolError, ServeBridgeError
from serve_bridge.forwarding.allowance import WORKER_ALLOWANCE, KeptBytes
from serve_bridge.forwarding.answer import ForwardedAnswer, StreamedBody, forward, read_head
from serve_bridge.forwarding.blocking_upload import TOO_SHORT, BlockingUpload
from serve_bridge.forwarding.declared_length import BlockingBody, WholeBody, declared_length
from serve_bridge.forwarding.refusals import BodyTooLarge, UploadBroken
from serve_bridge.forwarding.request import ForwardedRequest
from serve_bridge.http.answers import AnswerBroken
from serve_bridge.http.headers import HeaderList
from serve_bridge.http.readable import Readable
from serve_bridge.routing.blocking_calls import PendingAnswer
from serve_bridge.routing.channel import Channel
from serve_bridge.routing.process_link import ProcessLink
from serve_bridge.wire.heads import INLINE_BODY_BYTES, HttpFailure

BlockingForwardedAnswer: TypeAlias = ForwardedAnswer[BlockingBody]


def forward_blocking(
    link: ProcessLink,
    request: ForwardedRequest,
    body: bytes | Readable,
    *,
    length: int | None,
    max_bytes: int | None,
) -> BlockingForwardedAnswer:
    """Send *request* with *body* and return the answer, as soon as its head has arrived.

    Args:
        link: The client.
        request: The request without its body.
        body: The whole body, or the file from which it is read.
        length: The Content-Length of the body; None: it has none.
        max_bytes: Upper limit for the body in bytes; None: no limit.

    Raises:
        ServeBridgeError: As `Router.route`.
        Refused: The client caused the error.
        Exception: Any exception but OSError from `read` of the body.
    """
    timeout_s = request.timeout_s
    if max_bytes is not None and (length or 0) > max_bytes:
        raise BodyTooLarge(max_bytes)
    if isinstance(body, bytes):
        request.take_body(body)
    elif length is not None and length <= INLINE_BODY_BYTES:
        began = time.monotonic()
        request.take_body(_read(body, length))
        request.timeout_s -= time.monotonic() - began
    else:
        began = time.monotonic()
        upload = BlockingUpload(body, length, max_bytes)
        request.stream_body(upload, length)
        if link.needs_whole_body(request, request.method_name):
            upload.read_before()
        request.timeout_s -= time.monotonic() - began
        looped = upload.feed_until(link.begin(partial(_forward, request)), timeout_s)
        return _from_loop(link, request, looped, timeout_s, upload)
    answer = link.send(request)
    if answer is None:
        return _from_loop(link, request, link.run(partial(_forward, request), timeout_s), timeout_s)
    try:
        head, headers = read_head(answer.head, request)
    except ProtocolError:
        answer.close()
        raise
    length = declared_length(request, head.status, headers)
    if answer.ended:
        return _whole(head.status, headers, head.body + answer.read(), head.failure, length)
    kept = KeptBytes(WORKER_ALLOWANCE)
    if head.complete and length is not None and kept.take(length):
        with contextlib.suppress(ServeBridgeError):  # the body raises the error where it is read
            answer.receive(length)
    return ForwardedAnswer(head.status, headers, _SocketBody(answer, length, kept), head.failure)


async def _forward(request: ForwardedRequest, channel: Channel) -> ForwardedAnswer[StreamedBody]:
    return await forward(channel.router, request)


def _from_loop(
    link: ProcessLink,
    request: ForwardedRequest,
    answer: ForwardedAnswer[StreamedBody],
    timeout_s: float,
    upload: BlockingUpload | None = None,
) -> BlockingForwardedAnswer:
    length = declared_length(request, answer.status, answer.headers)
    body = answer.body
    if isinstance(body, bytes):
        return _whole(answer.status, answer.headers, body, answer.failure, length)
    return ForwardedAnswer(
        answer.status, answer.headers, _LoopThreadBody(link, body, timeout_s, upload, length), answer.failure
    )


def _whole(
    status: int, headers: HeaderList, body: bytes, failure: HttpFailure | None, length: int | None
) -> BlockingForwardedAnswer:
    is_right = length is None or length == len(body)
    return ForwardedAnswer(status, headers, body if is_right else WholeBody(body, length or 0), failure)


def _read(body: Readable, length: int) -> bytes:
    """Return all *length* bytes of *body*.

    Raises:
        UploadBroken: The body ended before.
    """
    pieces = []
    while length:
        try:
            piece = body.read(length)
        except OSError as broken:
            raise UploadBroken(str(broken)) from broken
        if not piece:
            raise UploadBroken(TOO_SHORT)
        pieces.append(piece)
        length -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class _SocketBody(BlockingBody):
    """A body on the thread's own socket; *kept* is its share of an allowance."""

    def __init__(self, answer: PendingAnswer, length: int | None, kept: KeptBytes) -> None:
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


class _LoopThreadBody(BlockingBody):
    """A body on the client's loop thread. The request may still be uploading."""

    def __init__(
        self, link: ProcessLink, body: StreamedBody, timeout_s: float, upload: BlockingUpload | None, length: int | None
    ) -> None:
        super().__init__(length)
        self._link = link
        self._body = body
        self._timeout_s = timeout_s
        self._upload = upload
        self._pieces = body.pieces()

    def _next(self) -> bytes | None:
        async def step(_: Channel) -> bytes | None:
            return await anext(self._pieces, None)

        if self._upload is None:
            piece: bytes | None = self._link.run(step, self._timeout_s)
        else:
            piece = self._upload.feed_until(self._link.begin(step), self._timeout_s)
        if piece is None:
            self.close()
        return piece

    def close(self) -> None:
        async def close(_: Channel) -> None:
            await self._pieces.aclose()
            self._body.close()

        with contextlib.suppress(InstanceClosed):  # the client is closed, and its connections with it
            self._link.run(close, self._timeout_s)
