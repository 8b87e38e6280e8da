"""The answer to a forwarded request, and forwarding on an event loop."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Generic, TypeVar

from serve_bridge.errors import ProtocolError, ServeBridgeError
from serve_bridge.forwarding.allowance import WORKER_ALLOWANCE, Allowance, KeptBytes
from serve_bridge.forwarding.headers import UNBUFFERED, is_open_ended, passing_headers
from serve_bridge.forwarding.request import ForwardedRequest
from serve_bridge.http.answers import AnswerBroken, is_bodyless, problem
from serve_bridge.http.headers import EXECUTED, REQUEST_ID, TELLING, HeaderList, fault_of, length_of, lowered
from serve_bridge.routing.router import Router
from serve_bridge.wire.caller_end import CallerStream
from serve_bridge.wire.endings import Aborted, Lost
from serve_bridge.wire.frames import END
from serve_bridge.wire.heads import HttpAnswer, HttpFailure, decoder
from serve_bridge.wire.streams import ANSWER_WINDOW
from serve_bridge.wire.websocket_messages import SWITCHING

_decode = decoder(HttpAnswer)
_decode_trailers = decoder(HeaderList)
_Body = TypeVar("_Body")


@dataclass(slots=True)
class ForwardedAnswer(Generic[_Body]):
    """The answer to a forwarded request.

    Attributes:
        status: The status.
        headers: The headers, with the id of the request.
        body: The whole body, or an object with its pieces, which must be closed: a `StreamedBody` on a loop, a
            `BlockingBody` in a thread.
        failure: The exception of user code, for the log; None: user code made the answer.
    """

    status: int
    headers: HeaderList
    body: bytes | _Body
    failure: HttpFailure | None


class StreamedBody:
    """A body in pieces, on the loop of its stream.

    Attributes:
        trailers: The trailers, once the body was read; None: the answer has none.
    """

    __slots__ = ("_kept", "_stream", "trailers")

    def __init__(self, stream: CallerStream, trailers: HeaderList | None, kept: KeptBytes | None) -> None:
        """Read *stream*; *kept* is the share of the body in an allowance."""
        self.trailers = trailers
        self._stream = stream
        self._kept = kept

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Iterate the pieces of the body.

        Raises:
            AnswerBroken: The body ended early.
        """
        try:
            while (frame := await self._stream.next_frame()) is not None:
                if self.trailers is not None and frame.flags & END:
                    self.trailers = passing_headers(_read_trailers(frame.payload))
                elif frame.payload:
                    yield self._stream.joined(frame)
        except (Lost, Aborted, ServeBridgeError) as error:  # a ServeBridgeError: the deadline has passed
            raise AnswerBroken("the answer broke off") from error

    def close(self) -> None:
        """Drop the rest of the body. It must be called in every case, on the loop of the stream."""
        self._stream.cancel()
        if self._kept is not None:
            self._kept.give_back()


def _read_trailers(payload: bytes) -> HeaderList:
    trailers = _decode_trailers(payload)
    fault = fault_of(trailers)
    if fault is not None:
        raise ProtocolError(f"the trailers of the backend's answer: {fault}")
    return lowered(trailers)


async def forward(
    router: Router, request: ForwardedRequest, *, debug: bool = False, allowance: Allowance = WORKER_ALLOWANCE
) -> ForwardedAnswer[StreamedBody]:
    """Send *request* and return the answer, as soon as its head has arrived.

    If an answer declares its length, and *allowance* has room for it, the replica may send all of it. Its slot is then
    free when the backend has answered, and not only when the client has read the answer. With *debug*, the answer to a
    request whose user code raised shows the traceback.

    Raises:
        ServeBridgeError: As `Router.route`. It is also a ProtocolError if the answer cannot be sent to a client.
    """
    stream = None
    try:
        stream, frame = await router.route(request)
        head, headers = read_head(frame.payload, request)
    except BaseException as error:
        if request.kept is not None:
            request.kept.give_back()
        if stream is not None and isinstance(error, ProtocolError):
            stream.cancel()
        raise
    failure = head.failure
    shows_failure = debug and failure is not None
    if request.kept is not None and (shows_failure or frame.flags & END):
        request.kept.give_back()
    if debug and failure is not None:
        stream.cancel()
        shown = problem(head.status, "Error", request_id=request.request_id, traceback=failure.traceback)
        told = [pair for pair in headers if pair[0] in (REQUEST_ID, EXECUTED)]
        return ForwardedAnswer(shown.status, [*shown.headers, *told], shown.body, failure)
    if frame.flags & END:
        return ForwardedAnswer(head.status, headers, head.body, failure)
    length = length_of(headers) or 0
    if length > ANSWER_WINDOW and stream.may_receive():
        if request.kept is None:
            request.kept = KeptBytes(allowance)
        if request.kept.take(length - ANSWER_WINDOW):  # the replica may send `ANSWER_WINDOW` bytes in any case
            stream.give_credit(length)
    body = StreamedBody(stream, [] if head.trailers else None, request.kept)
    return ForwardedAnswer(head.status, headers, body, failure)


def read_head(payload: bytes, request: ForwardedRequest) -> tuple[HttpAnswer, HeaderList]:
    """Return the head of the answer to *request*, and the headers for the client.

    Raises:
        ProtocolError: The head cannot be sent to a client. The caller must drop the answer.
    """
    head = _decode(payload)
    status = head.status
    if not (101 < status < 600 or (status == SWITCHING and request.is_websocket)):
        raise ProtocolError(f"the backend answered with status {status}, which cannot be sent")
    fault = fault_of(head.headers)
    if fault is not None:
        raise ProtocolError(f"the backend's answer: {fault}")
    headers = passing_headers(lowered(head.headers))
    if is_bodyless(status):  # RFC 9110 section 8.6 forbids a length with 204; with 304 some servers wait for the body
        headers = [pair for pair in headers if pair[0] != b"content-length"]
    elif not head.body and is_open_ended(headers):
        headers = [*headers, UNBUFFERED]
    headers.append((REQUEST_ID, request.request_id.encode()))
    if head.failure is not None and status in TELLING:
        headers.append((EXECUTED, b"unknown"))  # a call of user code was refused, but user code itself ran
    return head, headers
