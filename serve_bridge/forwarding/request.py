"""An HTTP request on its way to an endpoint and its answer on the way back: what proxy and adapters share.

Rule 1: an ASGI scope describes the request, whoever received it.
Rule 2: of the headers named X-Serve-* three are consumed and none passes, in either direction.
Rule 3: a failure is an `application/problem+json` with a request id; what failed inside is for the log.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from random import random
from typing import Any, ClassVar, Final, cast

import msgspec
from starlette.types import Receive, Scope

from serve_bridge.context import valid_request_id
from serve_bridge.errors import (
    UNAVAILABLE,
    BackendOverloaded,
    DeadlineExceeded,
    ProtocolError,
    ServeBridgeError,
)
from serve_bridge.forwarding.allowance import MOST_KEPT_BYTES, WORKER, Allowance, Kept
from serve_bridge.http.answers import RETRY_AFTER_S, Answer, is_bodyless, problem
from serve_bridge.http.body_length import COLLECTED, body_length
from serve_bridge.http.headers import (
    CREDENTIALS,
    FORWARDING,
    HOP_BY_HOP,
    TRAILERS,
    HeaderList,
    end_to_end,
    fault_of,
    length_of,
    lowered,
    nominated,
)
from serve_bridge.http.methods import IDEMPOTENT
from serve_bridge.routing.router import Router
from serve_bridge.wire.caller_end import CallerStream, Upload
from serve_bridge.wire.endings import Aborted, Lost
from serve_bridge.wire.frames import END, Kind
from serve_bridge.wire.heads import INLINE_BODY_BYTES, HttpAnswer, HttpFailure, HttpHead, RawPathParams, decoder
from serve_bridge.wire.streams import ANSWER_WINDOW
from serve_bridge.wire.websocket_messages import SWITCHING

_CALL_METHOD, _SHARD_KEY, _REQUEST_ID = b"x-serve-call-method", b"x-serve-shard-key", b"x-request-id"
_TIMEOUT: Final = b"x-serve-timeout-s"
_CONSUMED: Final = frozenset({_CALL_METHOD, _SHARD_KEY, _TIMEOUT})
_NOT_FORWARDED: Final = HOP_BY_HOP | {b"expect"}
"""Request headers that end here: a 100 (Continue) is sent by the server that the client speaks to."""
_NOT_FORWARDED_NOR_CREDENTIALS: Final = _NOT_FORWARDED | CREDENTIALS
_NOT_PASSED_ON: Final = HOP_BY_HOP | {_REQUEST_ID}
"""Response headers that the server sets itself; the same headers from user code are dropped."""
_UNBUFFERED: Final = (b"x-accel-buffering", b"no")
"""Response header of a stream. Without it nginx would collect events before it passes them on."""
_LEFT: Final = "the client left during its upload"
_SECONDS: Final = re.compile(rb"[0-9]{1,15}(?:\.[0-9]{1,15})?")
_TITLES: Final = {status.value: status.phrase for status in HTTPStatus} | {413: "Content Too Large"}
"""Python 3.11 and 3.12 name 413 by an older RFC."""

_encode = msgspec.msgpack.Encoder().encode
_decode = decoder(HttpAnswer)
_decode_trailers = decoder(HeaderList)


class Refused(Exception):
    """The client is to blame: its request is not forwarded, or not to its end."""

    http_status: ClassVar[int] = 400


class BadControlHeader(Refused):
    """A control header is repeated, or holds nothing that it may."""


class BodyTooLarge(Refused):
    """The body is longer than the route allows."""

    http_status = 413

    def __init__(self, most: int) -> None:
        super().__init__(f"the body is longer than {most} bytes")


class LengthRequired(Refused):
    """The end of the body cannot be known."""

    http_status = 411

    def __init__(self) -> None:
        super().__init__("this server cannot tell where a body without a Content-Length ends")


class UploadBroken(Refused):
    """The client left before all of the body had come."""


class Broken(ConnectionError):
    """The answer ended early; the connection must not look as if it had not."""


class Forwarded:
    """One HTTP request on its way to a replica (a `router.Outgoing`).

    Attributes:
        request_id: The client's own if it is a valid one, else the next of *request_ids*. User code finds it in the
            header X-Request-Id.
        body: What follows the head; see `router.Outgoing`.
        from_adapter: Whether an adapter forwards it, and not the proxy.
    """

    __slots__ = (
        "_call_method",
        "_context",
        "_headers",
        "_inline",
        "_length",
        "_params",
        "_scope",
        "_takes_trailers",
        "body",
        "draw",
        "endpoint",
        "from_adapter",
        "idempotent",
        "kept",
        "limit_s",
        "request_id",
        "retried",
        "shard_key",
        "timeout_s",
    )
    kind = Kind.REQUEST

    def __init__(
        self,
        endpoint: str,
        params: RawPathParams,
        scope: Scope,
        *,
        timeout_s: float,
        request_ids: Iterator[str],
        call_method: str | None = None,
        timeout_header: bool = True,
        credentials: bool = True,
        from_adapter: bool = False,
        context: dict[str, Any] | None = None,
    ) -> None:
        """Take the request that *scope* describes; its body comes by `take_body` or `receive_body`.

        *call_method* None leaves the choice of the method to the request's header; with *timeout_header* another one
        may shorten *timeout_s*. Without *credentials* the headers Cookie and Authorization stay. An adapter's framework
        has decided about scheme, client and host: *from_adapter* drops the headers in which a client claims others.

        Raises:
            BadControlHeader: The client is to blame.
        """
        self.endpoint = endpoint
        self.draw = random()
        self.retried = False
        self.kept: Kept | None = None
        self.body: Upload | None = None
        self._inline = b""
        self._length: int | None = 0
        self._params = params
        self._scope = scope
        self.from_adapter = from_adapter
        self._takes_trailers = not from_adapter and "extensions" in scope and TRAILERS in scope["extensions"]
        self._context = context
        method = scope.get("method")
        if method is None:
            scope = self._scope = _handshake(scope)
            method = scope["method"]
        self._headers, control = _split(
            scope["headers"],
            _NOT_FORWARDED if credentials else _NOT_FORWARDED_NOR_CREDENTIALS,
            from_adapter=from_adapter,
        )
        given = control.get(_REQUEST_ID)
        valid = None if given is None else valid_request_id(given.decode("latin-1"))
        self.request_id = valid or next(request_ids)
        self._headers.append((_REQUEST_ID, self.request_id.encode()))
        self.shard_key = _text(control, _SHARD_KEY)
        asked = _TIMEOUT in control and timeout_header
        self.timeout_s = self.limit_s = min(timeout_s, _seconds(control[_TIMEOUT])) if asked else timeout_s
        self._call_method = (_text(control, _CALL_METHOD) or "") if call_method is None else call_method
        self.idempotent = method in IDEMPOTENT and not self._call_method

    @property
    def is_websocket(self) -> bool:
        """Whether the request is the handshake of a WebSocket."""
        return "subprotocols" in self._scope

    @property
    def has_no_answer_body(self) -> bool:
        """Whether the answer ends with its head, as each answer to HEAD does."""
        return bool(self._scope["method"] == "HEAD")

    def take_body(self, body: bytes) -> None:
        """Take the whole *body*, which can be sent again where that is safe."""
        self._length = len(body)
        if len(body) <= INLINE_BODY_BYTES:
            self._inline = body
        else:
            self.body = [body]

    async def receive_body(self, receive: Receive) -> None:
        """Take a short body into the head; leave a longer one to be streamed from *receive*.

        Nothing is received while the client waits for a 100 (Continue), which user code sends by reading.

        Raises:
            UploadBroken: The client has left; later `forward` raises it.
            DeadlineExceeded: Nothing of it comes in time.
        """
        length = body_length(self._scope)
        if length == 0:
            return
        self._length = length
        if any(name == b"expect" for name, _ in self._scope["headers"]):
            self.body = _stream(None, receive)
            return
        began = time.monotonic()
        try:
            async with asyncio.timeout(self.timeout_s):
                message = await receive()
        except TimeoutError:
            raise DeadlineExceeded(
                "the body did not come in time; either the client is slow, or a middleware has read it before", "no"
            ) from None
        self.timeout_s -= time.monotonic() - began
        if message["type"] == "http.disconnect":
            raise UploadBroken(_LEFT)
        chunk = message.get("body", b"")
        if not message.get("more_body", False):
            self._length = len(chunk)
            if len(chunk) <= INLINE_BODY_BYTES:
                self._inline = chunk
                return
        self.body = _stream(message, receive)

    def stream_body(self, pieces: AsyncIterator[bytes], length: int | None) -> None:
        """Take a body that comes in *pieces*; *length* bytes in all, or None."""
        self.body = pieces
        self._length = length

    async def collect(self, allowance: Allowance) -> None:
        """Wait for the whole body, which streams so far; what *allowance* has no room for is left to stream.

        A backend that needs the whole body is sent the request after that, so a slow upload holds no slot. `forward`
        gives back what was taken of the allowance.

        Raises:
            UploadBroken: The client has left.
            DeadlineExceeded: The body does not come in time.
        """
        if (self._length or 0) > MOST_KEPT_BYTES:
            return
        stream = cast(AsyncIterator[bytes], self.body)
        kept = self.kept = Kept(allowance)
        pieces: list[bytes] = []
        began = time.monotonic()
        self._scope[COLLECTED] = True
        try:
            async with asyncio.timeout(self.timeout_s):
                async for piece in stream:
                    pieces.append(piece)
                    if not kept.take(len(piece)):
                        self.body = _after(pieces, stream)
                        return
        except BaseException as error:
            kept.give_back()
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded("the body did not come in time", "no") from None
            raise
        finally:
            del self._scope[COLLECTED]
            self.timeout_s -= time.monotonic() - began
        self.body = None
        self._length = sum(map(len, pieces))
        if self._length <= INLINE_BODY_BYTES:
            self._inline = b"".join(pieces)
        else:
            self.body = pieces

    @property
    def method_name(self) -> str:
        """The method of the backend that is called."""
        return self._call_method or "__call__"

    def encode(self, backend: str, version: int, timeout_s: float) -> bytes:
        """Return the head; see `router.Outgoing`."""
        scope = self._scope
        head = HttpHead(
            self.endpoint,
            backend,
            version,
            timeout_s,
            self.request_id,
            self._call_method,
            scope["method"],
            scope.get("scheme"),
            scope.get("http_version", "1.1"),
            scope["path"],
            scope.get("raw_path"),
            scope.get("root_path"),
            scope["query_string"],
            self._headers,
            self._params,
            scope.get("client"),
            scope.get("server"),
            self.from_adapter,
            self._context,
            self._inline,
            scope.get("subprotocols"),
            self._takes_trailers,
            self._length,
        )
        return _encode(head)


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
            Broken: It ended early.
        """
        try:
            while (frame := await self._stream.next_frame()) is not None:
                if self.trailers is not None and frame.flags & END:
                    self.trailers = _passing(_read_trailers(frame.payload))
                elif frame.payload:
                    yield self._stream.joined(frame)
        except (Lost, Aborted, ServeBridgeError) as error:  # of ours: the time is up
            raise Broken("the answer broke off") from error

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
    headers = _passing(lowered(head.headers))
    if is_bodyless(status):  # RFC 9110 section 8.6 forbids a length of 204; a server waits for the body of another one
        headers = [pair for pair in headers if pair[0] != b"content-length"]
    elif not head.body and _is_open_ended(headers):
        headers = [*headers, _UNBUFFERED]
    headers.append((_REQUEST_ID, request.request_id.encode()))
    return head, headers


def failed(error: ServeBridgeError | Refused, request_id: str | None, *, from_adapter: bool = False) -> Answer:
    """Return the answer for a request that got none from user code.

    With *from_adapter* a missing endpoint is a 503, as everything in `errors.UNAVAILABLE`.
    """
    is_unavailable = isinstance(error, UNAVAILABLE) and (from_adapter or error.http_status == 503)
    return refusal_answer(
        503 if is_unavailable else error.http_status,
        _detail(error),
        request_id,
        executed=getattr(error, "executed", None),
        retry=is_unavailable,
    )


def refusal_answer(
    status: int, detail: str | None, request_id: str | None, *, executed: str | None = None, retry: bool = False
) -> Answer:
    """Return the problem document of a request that is not served, or failed.

    Args:
        status: Status of the answer.
        detail: One clause for the client.
        request_id: Id of the request; None: it has none.
        executed: "no" or "unknown": whether user code may have run.
        retry: Whether the client may try again soon.
    """
    answer = problem(status, _TITLES.get(status, "Error"), detail, request_id)
    if request_id is not None:
        answer.headers.append((_REQUEST_ID, request_id.encode()))
    if executed is not None:
        answer.headers.append((b"x-serve-executed", executed.encode()))
    if retry:
        answer.headers.append((b"retry-after", b"%d" % RETRY_AFTER_S))
    return answer


def client_request_id(headers: HeaderList) -> str | None:
    """Return the id that the client gave its request, if it is a valid one."""
    given = next((value for name, value in headers if name == _REQUEST_ID), b"")
    return valid_request_id(given.decode("latin-1"))


def _detail(error: ServeBridgeError | Refused) -> str | None:
    # Of our own errors only these say nothing about the inside.
    if isinstance(error, Refused):
        return str(error)
    return "the server is too busy, or starting" if isinstance(error, BackendOverloaded) else None


def _handshake(scope: Scope) -> Scope:
    """Return the scope of a WebSocket with what one of HTTP has: its handshake is a GET (RFC 6455)."""
    return {**scope, "method": "GET", "subprotocols": tuple(scope.get("subprotocols") or ())}


def _split(
    headers: HeaderList, dropped: frozenset[bytes], *, from_adapter: bool
) -> tuple[HeaderList, dict[bytes, bytes]]:
    """Return the headers that pass, and those that are consumed.

    The proxy has removed the headers that an adapter must still drop: the names that begin like `FORWARDING`, and the
    names with "_", which WSGI cannot tell from names with "-".
    """
    passing: HeaderList = []
    control: dict[bytes, bytes] = {}
    options: list[bytes] = []
    for pair in headers:
        name = pair[0]
        if from_adapter and (b"_" in name or name.startswith(FORWARDING)):
            continue
        if name[:2] == b"x-":
            if name[:8] == b"x-serve-":
                if name in control and name in _CONSUMED:
                    raise BadControlHeader(f"the header {name.decode()} is there twice")
                control[name] = pair[1]
                continue
            if name == _REQUEST_ID:
                control.setdefault(name, pair[1])
                continue
        if name not in dropped:
            passing.append(pair)
        elif name == b"connection":
            options.append(pair[1])
    if options and (listed := nominated(options) - HOP_BY_HOP):
        passing = [pair for pair in passing if pair[0] not in listed]
    return passing, control


def _text(control: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = control.get(name)
    if value is None:
        return None
    try:
        text = value.decode("ascii")
    except UnicodeDecodeError:
        text = ""
    if not text:
        raise BadControlHeader(f"the header {name.decode()} must be text and not empty")
    return text


def _seconds(value: bytes) -> float:
    if not _SECONDS.fullmatch(value) or not float(value):
        name, text = _TIMEOUT.decode(), value[:40].decode("latin-1")
        raise BadControlHeader(f"the header {name} must be a number of seconds above 0, such as 2.5, got {text!r}")
    return float(value)


def _passing(headers: HeaderList) -> HeaderList:
    """Return the headers of an answer that may leave; a fresh list or *headers* itself."""
    for name, _ in headers:
        if name in _NOT_PASSED_ON or name[:8] == b"x-serve-":
            return [pair for pair in end_to_end(headers, _NOT_PASSED_ON) if pair[0][:8] != b"x-serve-"]
    return headers


def _is_open_ended(headers: HeaderList) -> bool:
    """Return whether an answer of *headers* is streamed, and its backend does not say how proxies buffer it."""
    return not any(name == b"content-length" or name == b"x-accel-buffering" for name, _ in headers)


async def _after(pieces: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Iterate *pieces*, which are freed one by one, then *rest*."""
    pieces.reverse()
    while pieces:
        yield pieces.pop()
    async for piece in rest:
        yield piece


async def _stream(message: Mapping[str, Any] | None, receive: Receive) -> AsyncIterator[bytes]:
    while True:
        if message is None:
            message = await receive()
        if message["type"] == "http.disconnect":
            raise UploadBroken(_LEFT)
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body", False):
            return
        message = None
