"""Sending a request on an event loop, and its answer on the way back."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from serve_bridge.errors import ProtocolError, ServeBridgeError
from serve_bridge.forwarding.allowance import WORKER, Allowance, Kept
from serve_bridge.forwarding.headers import UNBUFFERED, is_open_ended, passing_headers
from serve_bridge.forwarding.request import Forwarded
from serve_bridge.http.answers import AnswerBroken, is_bodyless, problem
from serve_bridge.http.headers import REQUEST_ID, HeaderList, fault_of, length_of, lowered
from serve_bridge.routing.router import Router
from serve_bridge.wire.caller_end import CallerStream
from serve_bridge.wire.endings import Aborted, Lost
from serve_bridge.wire.frames import END
from serve_bridge.wire.heads import HttpAnswer, HttpFailure, decoder
from serve_bridge.wire.streams import ANSWER_WINDOW
from serve_bridge.wire.websocket_messages import SWITCHING

_decode = decoder(HttpAnswer)
_decode_trailers = decoder(HeaderList)


@dataclass(slots=True)
class Reply:
    """The answer to a forwarded request.

    Attributes:
        status: Its status.
        headers: Its headers, with the request's id.
        body: All of its body, or None: it is read by `chunks`.
        failure: What user code raised, for the log; None if it answered by itself.
        trailers: What follows the body, once that was read; None: nothing does.
    """

    status: int
    headers: HeaderList
    body: bytes | None
    failure: HttpFailure | None
    _stream: CallerStream
    trailers: HeaderList | None = None
    _kept: Kept | None = None

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Iterate a body that is not whole.

        Raises:
            AnswerBroken: It ended early.
        """
        try:
            while (frame := await self._stream.next_frame()) is not None:
                if self.trailers is not None and frame.flags & END:
                    self.trailers = passing_headers(_read_trailers(frame.payload))
                elif frame.payload:
                    yield self._stream.joined(frame)
        except (Lost, Aborted, ServeBridgeError) as error:  # of ours: the time is up
            raise AnswerBroken("the answer broke off") from error

    def close(self) -> None:
        """Give up what has not come; on the loop it came on. It must be called in the end."""
        self._stream.cancel()
        if self._kept is not None:
            self._kept.give_back()


def _read_trailers(payload: bytes) -> HeaderList:
    trailers = _decode_trailers(payload)
    fault = fault_of(trailers)
    if fault is not None:
        raise ProtocolError(f"the trailers of the backend's answer: {fault}")
    return lowered(trailers)


async def forward(router: Router, request: Forwarded, *, debug: bool = False, allowance: Allowance = WORKER) -> Reply:
    """Send *request* and return the answer, as soon as its head is there.

    The replica may send all of an answer that declares its length, if *allowance* has room for it. Its slot is then
    free when the backend has answered, and not when the client has read the answer.

    Raises:
        ServeBridgeError: As `Router.route`; a ProtocolError also if the answer is none.
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
    shows_failure = debug and head.failure is not None
    if request.kept is not None and (shows_failure or frame.flags & END):
        request.kept.give_back()
    if head.failure and debug:
        shown = problem(head.status, "Error", request_id=request.request_id, traceback=head.failure.traceback)
        return Reply(shown.status, [*shown.headers, headers[-1]], shown.body, head.failure, stream)
    if frame.flags & END:
        return Reply(head.status, headers, head.body, head.failure, stream)
    length = length_of(headers) or 0
    if length > ANSWER_WINDOW and stream.may_receive():
        if request.kept is None:
            request.kept = Kept(allowance)
        if request.kept.take(length - ANSWER_WINDOW):  # that much may come in any case
            stream.give_credit(length)
    return Reply(head.status, headers, None, head.failure, stream, [] if head.trailers else None, request.kept)


def read_head(payload: bytes, request: Forwarded) -> tuple[HttpAnswer, HeaderList]:
    """Return the head of the answer to *request*, and the headers that leave.

    Raises:
        ProtocolError: The payload is not a head that may leave; the caller gives the answer up.
    """
    head = _decode(payload)
    status = head.status
    if not (101 < status < 600 or (status == SWITCHING and request.is_websocket)):
        raise ProtocolError(f"the backend answered with status {status}, which cannot be sent")
    fault = fault_of(head.headers)
    if fault is not None:
        raise ProtocolError(f"the backend's answer: {fault}")
    headers = passing_headers(lowered(head.headers))
    if is_bodyless(status):  # RFC 9110 section 8.6 forbids a length of 204; a server waits for the body of another one
        headers = [pair for pair in headers if pair[0] != b"content-length"]
    elif not head.body and is_open_ended(headers):
        headers = [*headers, UNBUFFERED]
    headers.append((REQUEST_ID, request.request_id.encode()))
    return head, headers
