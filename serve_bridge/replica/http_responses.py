"""The answer to an HTTP request: the result of user code, sent to the caller.

Rule 1: the first piece of a body is encoded before the head is sent. If it cannot be encoded, the answer is a 500.
Rule 2: a generator of user code runs on the threads or the loop of user code. It is closed at once when the caller
        leaves.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from starlette.responses import Response, StreamingResponse

from serve_bridge.http.answers import Answer
from serve_bridge.http.headers import TRAILERS
from serve_bridge.replica.executor import Executor, is_stream
from serve_bridge.replica.rendering import StreamOf, render
from serve_bridge.replica.response_sender import Message, ResponseSender
from serve_bridge.user_code.streaming_response import threaded_content
from serve_bridge.wire.heads import INLINE_BODY_BYTES, HttpAnswer, HttpHead, encode_head
from serve_bridge.wire.replica_end import ReplicaStream

_logger = logging.getLogger("serve_bridge.replica")


async def send_result(executor: Executor, stream: ReplicaStream, result: Any, head: HttpHead) -> None:
    """Send *result* of user code as the answer to the request of *head*.

    Raises:
        SerializationError: The result, or the rest of a stream, cannot be sent.
        Lost: The caller has left.
        BaseException: User code raised it during the iteration.
    """
    has_no_body = head.method == "HEAD"
    if is_stream(result):
        await _send_stream(stream, result, has_no_body=has_no_body)
        return
    rendered = render(result, head=has_no_body)
    if type(rendered) is Answer:
        await _send_answer(stream, rendered, has_no_body=has_no_body)
    elif isinstance(rendered, StreamOf):
        chunks = rendered.chunks
        if not isinstance(chunks, AsyncIterator):
            chunks = executor.iterate(chunks)
        await _send_stream(stream, chunks, has_no_body=has_no_body)
    else:
        assert isinstance(rendered, Response)
        sender = ResponseSender(stream, has_no_body=has_no_body, takes_trailers=head.trailers)
        if isinstance(rendered, StreamingResponse):
            _iterate_on(executor, rendered)
        try:
            await rendered(_response_scope(head), partial(_leaving, stream), sender)
        finally:
            await close_chunks(getattr(rendered, "body_iterator", None))


async def _send_answer(stream: ReplicaStream, answer: Answer, *, has_no_body: bool) -> None:
    if has_no_body or len(answer.body) <= INLINE_BODY_BYTES:
        body = b"" if has_no_body else answer.body
        stream.respond(encode_head(HttpAnswer(answer.status, answer.headers, body)), end=True)
        return
    stream.respond(encode_head(HttpAnswer(answer.status, answer.headers, b"", complete=True)), end=False)
    await stream.send_segments([answer.body], end=True)


async def _send_stream(stream: ReplicaStream, chunks: AsyncIterator[Any], *, has_no_body: bool) -> None:
    """Send each chunk when the generator yields it. Close the generator when the caller leaves."""
    try:
        first = await anext(chunks, "")
        data = StreamOf.encode(first)
        answer = HttpAnswer(200, [(b"content-type", StreamOf.media_type_of(first))], b"")
        stream.respond(encode_head(answer), end=has_no_body)
        if has_no_body:
            return
        while True:
            if data and not stream.offer(data):
                await stream.send_segments([data], end=False)
            try:
                data = StreamOf.encode(await anext(chunks))
            except StopAsyncIteration:
                break
        await stream.send_segments([], end=True)
    finally:
        await close_chunks(chunks)


def _iterate_on(executor: Executor, response: StreamingResponse) -> None:
    """Let *executor* iterate and close the synchronous content of *response*, as it does for a generator.

    Starlette has wrapped the content, and would iterate it on threads of its own: other threads, and many more.
    """
    content = threaded_content(response)
    if content is not None:
        response.body_iterator = executor.iterate(content)


async def close_chunks(chunks: Any) -> None:
    """Close *chunks* of user code now, if they can be closed, and not when the garbage collector finds them."""
    close = getattr(chunks, "aclose", None)
    if close is not None:
        await close()


def _response_scope(head: HttpHead) -> Message:
    return {
        "type": "http",
        "asgi": {
            "version": "3.0",
            "spec_version": "2.4",
        },  # since 2.4, `send` raises, so a response need not call `receive`
        "method": head.method,
        "headers": head.headers,
        "extensions": extensions_of(head),
    }


async def _leaving(stream: ReplicaStream) -> Message:
    """Wait until the caller leaves: the ASGI `receive` for a response, which must not read the request's body."""
    await stream.gone()
    return {"type": "http.disconnect"}


def extensions_of(head: HttpHead) -> dict[str, Any]:
    """Return the ASGI extensions supported by the caller of a request."""
    return {TRAILERS: {}} if head.trailers else {}
