"""The answer to an HTTP request on its way out of a replica: what user code returned, and what it sends by itself.

Rule 1: nothing leaves before its first piece is known to be fit, so that what is not becomes a 500; a head that user
        code has sent by itself waits for a piece no longer than `HEAD_GRACE_S`.
Rule 2: what user code iterates is iterated and closed where user code runs, and closed at once when nobody wants more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, MutableMapping
from functools import partial
from typing import Any, Final

from starlette.responses import Response, StreamingResponse

from serve_bridge.http.answers import Answer, fit_head, fit_trailers, is_bodyless
from serve_bridge.http.headers import TRAILERS, HeaderList
from serve_bridge.replica.executor import Executor, is_stream
from serve_bridge.replica.rendering import StreamOf, render
from serve_bridge.user_code.streaming_response import threaded_content
from serve_bridge.wire.heads import INLINE_BODY_BYTES, HttpAnswer, HttpHead, encode_head
from serve_bridge.wire.replica_end import ReplicaStream

HEAD_GRACE_S: Final = 0.5
"""How long a head waits for the first piece of a body whose length it does not say.

Who waits for an event sees that soon; and what fails at once is a 500 even where a busy machine takes its time for it.
"""

_logger = logging.getLogger("serve_bridge.replica")


Message = MutableMapping[str, Any]


async def send_result(executor: Executor, stream: ReplicaStream, result: Any, head: HttpHead) -> None:
    """Send what user code has returned for the request of *head*.

    Raises:
        SerializationError: It cannot be sent; of a stream perhaps only the rest.
        Lost: Nobody wants it any more.
        BaseException: What user code raises while it is iterated.
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
    """Send what a generator yields as it yields it; it is closed when the caller goes."""
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
    """Have the synchronous content of *response* iterated and closed on the threads of user code, as a generator is.

    Starlette has wrapped it; its threads would be others, and many.
    """
    content = threaded_content(response)
    if content is not None:
        response.body_iterator = executor.iterate(content)


async def close_chunks(chunks: Any) -> None:
    """Close what user code iterates, if that can be closed: it is not left to the garbage collector."""
    close = getattr(chunks, "aclose", None)
    if close is not None:
        await close()


class ResponseSender:
    """The ASGI `send` under a Starlette Response that runs here."""

    def __init__(self, stream: ReplicaStream, *, has_no_body: bool = False, takes_trailers: bool = False) -> None:
        self._stream = stream
        self._has_no_body = has_no_body
        self._takes_trailers = takes_trailers
        self._trailers: HeaderList = []
        self._start: HttpAnswer | None = None
        self._grace: asyncio.TimerHandle | None = None
        self._started = self._awaits_trailers = self._flows = False

    def passes(self, message: Message) -> bool:
        """Send *message* if it is a piece of the body that need not wait; return whether it was sent."""
        if not self._flows or message["type"] != "http.response.body" or not message.get("more_body", False):
            return False
        body = message.get("body", b"")
        return type(body) is bytes and self._stream.offer(body)

    async def __call__(self, message: Message) -> None:
        """Take one message of an HTTP response.

        Raises:
            Lost: Nobody wants more of it: the caller has gone, or the answer has no body.
        """
        if self.passes(message):
            return
        if message["type"] == "http.response.start":
            headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
            status, headers = fit_head(message["status"], headers)
            self._has_no_body = self._has_no_body or is_bodyless(status)
            self._takes_trailers = self._takes_trailers and message.get("trailers", False) and not self._has_no_body
            self._start = HttpAnswer(status, headers, b"", None, self._takes_trailers)
            if not self._has_no_body and not any(name == b"content-length" for name, _ in headers):
                self._grace = asyncio.get_running_loop().call_later(HEAD_GRACE_S, self._send_head)
        elif message["type"] == "http.response.body" and self._start is not None:
            end = not message.get("more_body", False)
            self._awaits_trailers = end and self._takes_trailers
            await self._body(message.get("body", b""), end=end and not self._takes_trailers)
        elif message["type"] == TRAILERS and self._awaits_trailers:
            self._trailers += [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
            if not message.get("more_trailers", False):
                await self._end_with(self._trailers)

    async def _end_with(self, trailers: HeaderList) -> None:
        sent = fit_trailers(trailers)
        if len(sent) < len(trailers):
            _logger.warning("%d trailers that may not follow a body were dropped", len(trailers) - len(sent))
        await self._stream.send_segments([encode_head(sent)], end=True)

    async def _body(self, body: bytes, *, end: bool) -> None:
        assert self._start is not None
        if not self._started:
            if self._has_no_body:
                body, end = b"", True
            if end and len(body) <= INLINE_BODY_BYTES:
                self._begin()
                whole = HttpAnswer(self._start.status, self._start.headers, bytes(body))
                self._stream.respond(encode_head(whole), end=True)
                return
            self._send_head()
        if body or end:
            await self._stream.send_segments([body] if body else [], end=end)

    def _send_head(self) -> None:
        if not self._started and self._stream.may_send():
            self._begin()
            self._flows = True
            self._stream.respond(encode_head(self._start), end=False)

    def _begin(self) -> None:
        self._started = True
        if self._grace is not None:
            self._grace.cancel()


def _response_scope(head: HttpHead) -> Message:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},  # since 2.4 a response does not listen: `send` raises
        "method": head.method,
        "headers": head.headers,
        "extensions": extensions_of(head),
    }


async def _leaving(stream: ReplicaStream) -> Message:
    """Wait until the caller goes: the ASGI `receive` of a response, which must not take the request's body."""
    await stream.gone()
    return {"type": "http.disconnect"}


def extensions_of(head: HttpHead) -> dict[str, Any]:
    """Return the extensions of ASGI that the caller of a request supports."""
    return {TRAILERS: {}} if head.trailers else {}
