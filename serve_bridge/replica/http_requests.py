"""One request in a replica, from its head to its answer: HTTP requests and Python calls.

Rule 1: what user code gets, the request or its data, was decided when its method was inspected.
Rule 2: a failure of user code is an answer like any other; only the type and text of a Python call's failure, and
        nothing of an HTTP request's, leave for the caller.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any, Final

from python_multipart.exceptions import FormParserError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from serve_bridge.errors import UNAVAILABLE, ProtocolError, SerializationError, ServeBridgeError, failure_message
from serve_bridge.http.answers import Answer, fit_head, is_bodyless, problem, unavailable
from serve_bridge.http.body_length import BODY_LENGTH
from serve_bridge.http.headers import REQUEST_ID
from serve_bridge.http.path_params import convert
from serve_bridge.process.daemon_threads import on_engine_thread
from serve_bridge.replica.executor import Executor, is_stream
from serve_bridge.replica.http_responses import Message, close_chunks, extensions_of, send_result
from serve_bridge.request.body_channel import TURN_S
from serve_bridge.request.json_body import parse_json
from serve_bridge.request.passed_request import web_request_in
from serve_bridge.request.serve_request import ServeRequest
from serve_bridge.user_code.call_signature import NO_DATA
from serve_bridge.user_code.method import Method
from serve_bridge.user_code.unpicklable import unpicklable_result
from serve_bridge.wire import calls_answered, failure
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.heads import CallAnswer, CallHead, HttpAnswer, HttpHead, decoder, encode_head
from serve_bridge.wire.replica_end import ReplicaStream

_logger = logging.getLogger("serve_bridge.replica")

_decode: Final = decoder(HttpHead)


class BadRequest(Exception):
    """The request cannot be what the method takes; the caller is to blame."""


# HTTP


def decode_http(data: bytes) -> HttpHead:
    """Return the head of an HTTP request.

    Raises:
        ProtocolError: It is none; or a path parameter is none, which whoever matched the path has seen to.
    """
    head = _decode(data)
    if head.path_params:
        try:
            convert(head.path_params)
        except (KeyError, ValueError):
            raise ProtocolError("a path parameter is malformed") from None
    return head


async def answer_http(executor: Executor, method: Method, head: HttpHead, stream: ReplicaStream) -> None:
    """Run *method* for an HTTP request and send what it returns."""
    try:
        data = web_request(head, stream)
        kwargs: dict[str, Any] = {}
        if method.takes != "request" and method.name != "__call__":
            kwargs = dict(data.query_params)
            data = await _data_of(data)
        arguments = _bind(method, data, kwargs)
        result = await executor.run(method, *arguments)
        await send_result(executor, stream, result, head)
    except BaseException as error:
        end_failed(stream, head, error)


def web_request(head: HttpHead, stream: ReplicaStream) -> Any:
    """Return the request as the backend sees it: Starlette's, or an adapter's as a `ServeRequest`."""
    scope = scope_of(head)
    scope["type"] = "http"
    scope["method"] = head.method
    scope["app"] = None  # its presence makes Starlette answer a malformed form with 400
    if head.forwarded:
        return ServeRequest.of_scope(scope, IncomingBody(stream) if stream.has_body else head.body, stream)
    return Request(scope, Receiver(head, stream))


def scope_of(head: HttpHead) -> dict[str, Any]:
    """Return the ASGI scope that *head* describes, but for what only requests or only WebSockets have."""
    scope = {
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": head.http_version,
        "path": head.path,
        "query_string": head.query,
        "headers": head.headers,
        "client": head.client,
        "server": head.server,
        "path_params": convert(head.path_params) if head.path_params else {},
        "state": head.context or {},
        "extensions": extensions_of(head),
        BODY_LENGTH: head.body_length,
    }
    if head.scheme is not None:
        scope["scheme"] = head.scheme
    if head.raw_path is not None:
        scope["raw_path"] = head.raw_path
    if head.root_path is not None:
        scope["root_path"] = head.root_path
    return scope


class IncomingBody:
    """A body in DATA frames; asked for when it is first read.

    Attributes:
        loop: The loop on which it is read.
    """

    __slots__ = ("_accepted", "_stream", "_turn_began", "loop")

    def __init__(self, stream: ReplicaStream) -> None:
        self._stream = stream
        self._accepted = False
        self._turn_began = monotonic()
        self.loop = asyncio.get_running_loop()

    async def next(self) -> bytes | None:
        """Return the next chunk, or None after the last."""
        if not self._accepted:
            self._accepted = True
            self._stream.accept_body()
        if monotonic() - self._turn_began > TURN_S:
            await asyncio.sleep(0)
            self._turn_began = monotonic()
        return await self._stream.next_chunk()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate what is left of it."""
        while (chunk := await self.next()) is not None:
            yield chunk


class Receiver:
    """The ASGI `receive` of the request that a head begins.

    Attributes:
        loop: The loop on which it is called; None: the whole body is here.
        whole: The whole body; None: it is received.
        begun: Whether something of the body was taken.
    """

    __slots__ = ("_body", "_ended", "_stream", "begun", "loop", "whole")

    def __init__(self, head: HttpHead, stream: ReplicaStream) -> None:
        self._stream = stream
        self._body = IncomingBody(stream) if stream.has_body else None
        self._ended = self.begun = False
        self.loop = None if self._body is None else self._body.loop
        self.whole = head.body if self._body is None else None

    async def __call__(self) -> Message:
        """Return the next message."""
        if self._ended:
            await self._stream.gone()
            return {"type": "http.disconnect"}
        self.begun = True
        if self._body is None:
            self._ended = True
            return {"type": "http.request", "body": self.whole, "more_body": False}
        try:
            chunk = await self._body.next()
        except Lost:
            return {"type": "http.disconnect"}
        self._ended = chunk is None
        return {"type": "http.request", "body": chunk or b"", "more_body": not self._ended}


async def _data_of(request: Any) -> Any:
    """Return the data of a method call over HTTP: parsed JSON, otherwise the raw body, `NO_DATA` if it is empty."""
    body = await request.body()
    if not body:
        return NO_DATA
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        return body
    try:
        return await parse_json(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {type(error).__name__}") from None


def _bind(method: Method, data: Any, kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    try:
        return method.arguments(data, kwargs)
    except TypeError as error:
        raise BadRequest(str(error)) from None


def end_failed(stream: ReplicaStream, head: HttpHead, error: BaseException, *, left: bool = False) -> None:
    """End the answer to a request whose code was cancelled or raised *error*; *left*: since its client has left."""
    if isinstance(error, asyncio.CancelledError):
        if is_cancelled():
            stream.abort()
        else:
            send_failure(stream, head, RuntimeError("user code raised CancelledError"))
    elif left or isinstance(error, Lost):
        stream.abort()
    else:
        send_failure(stream, head, error)


def send_failure(stream: ReplicaStream, head: HttpHead, error: BaseException) -> None:
    """Answer for user code that raised; what it raised goes to the log, and to the proxy for its debug mode."""
    told = None
    if isinstance(error, FormParserError):  # what Starlette before 1.7 raises for a malformed form
        error = HTTPException(400, "Invalid multipart data.")
    if isinstance(error, HTTPException) and (raised := _raised_answer(error, head.request_id)) is not None:
        answer = raised
    elif isinstance(error, BadRequest):
        answer = problem(400, "Bad Request", str(error), head.request_id)
    elif isinstance(error, ServeBridgeError) and not isinstance(error, SerializationError | ProtocolError):
        # A nested call of the backend ended so; its status says more than 500.
        _logger.warning("request %s: %s: %s", head.request_id, type(error).__name__, error)
        if isinstance(error, UNAVAILABLE):
            answer = unavailable(type(error).__name__, request_id=head.request_id)
        else:
            answer = problem(error.http_status, type(error).__name__, request_id=head.request_id)
        told = failure.of_http(head.backend, error)
    else:
        log_failure(stream, head, error)
        answer = problem(500, "Internal Server Error", request_id=head.request_id)
        told = failure.of_http(head.backend, error)
    if stream.started:
        stream.abort()
    else:
        stream.respond(encode_head(HttpAnswer(answer.status, answer.headers, answer.body, told)), end=True)


def log_failure(stream: ReplicaStream, head: HttpHead, error: BaseException) -> None:
    """Log what user code raised for the request of *head*, unless its caller does so in this process.

    An adapter raises the failure in its framework, or logs it. A second record of the same process would be a second
    event in an error tracker. If the answer has begun, the adapter learns only that it broke off, so the reason is a
    warning here. If the answer is complete, as for a background task, the adapter learns nothing.
    """
    level = logging.ERROR
    if head.forwarded and stream.connection.is_of_this_process and (stream.may_send() or not stream.started):
        level = logging.WARNING if stream.started else logging.DEBUG
    _logger.log(level, failure_message(head.backend), head.request_id, exc_info=error)


def _raised_answer(error: HTTPException, request_id: str) -> Answer | None:
    """Return what *error* says, or None: its status or headers cannot be sent."""
    try:
        answer = problem(error.status_code, error.detail or "Error", request_id=request_id)
        if is_bodyless(error.status_code):
            answer = Answer(error.status_code, [], b"")
        given = (error.headers or {}).items()
        answer.headers.extend((name.encode("latin-1"), value.encode("latin-1")) for name, value in given)
        answer = Answer(*fit_head(answer.status, answer.headers), answer.body)
    except Exception as unfit:
        error.__cause__ = unfit
        return None
    return answer


# Python calls


async def answer_call(executor: Executor, method: Method, head: CallHead, stream: ReplicaStream) -> None:
    """Run *method* for a Python call and send what it returns or raises."""
    try:
        data, kwargs = await calls_answered.read_arguments(stream, head)
        result = await run_call(executor, method, head, data, kwargs, stream)
        if not is_stream(result):
            await _send_result(stream, result, head.backend)
        elif head.generator:
            await _send_items(stream, result, head.backend)
        else:  # as over Ray: who did not ask for a stream gets a list
            await _send_result(stream, [item async for item in result], head.backend)
    except asyncio.CancelledError:
        if is_cancelled():
            stream.abort()
            return
        calls_answered.answer_failure(stream, RuntimeError("user code raised CancelledError"))
    except (Lost, ProtocolError):
        stream.abort()
    except BaseException as error:
        if stream.started:
            stream.abort()
        else:
            calls_answered.answer_failure(stream, error)


async def run_call(
    executor: Executor,
    method: Method,
    head: CallHead,
    data: Any,
    kwargs: dict[str, Any],
    caller: ReplicaStream | None = None,
) -> Any:
    """Return what *method* returns for *data* and *kwargs*, as the method takes them; *caller* waits for it.

    Raises:
        TypeError: The method does not take these.
        BaseException: What user code raises.
    """
    if method.takes == "request":
        arguments: tuple[tuple[Any, ...], dict[str, Any]] = (_python_request(head, data, kwargs, caller),), {}
    else:
        arguments = method.arguments(data, kwargs)
    try:
        return await executor.run(method, *arguments)
    except BaseException as error:
        _disprove(error)
        raise


def _disprove(error: BaseException) -> None:
    """Note that *error*, if it proves that a call of user code did not run, proves nothing for who called that."""
    if getattr(error, "executed", None) == "no":
        error.__dict__["executed"] = "unknown"


def _python_request(head: CallHead, data: Any, kwargs: dict[str, Any], caller: ReplicaStream | None) -> Any:
    if (passed_on := web_request_in(data, head.request_id, caller)) is not None:
        return passed_on
    headers = [(REQUEST_ID, head.request_id.encode())]
    if head.headers:
        given = ((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in head.headers.items())
        headers = [*(pair for pair in given if pair[0] != REQUEST_ID), *headers]
    return ServeRequest(data, kwargs=kwargs, method=head.http_method, headers=headers, caller=caller)


async def _send_result(stream: ReplicaStream, result: object, backend: str) -> None:
    try:
        await calls_answered.answer(stream, result)
    except SerializationError as error:
        raise await on_engine_thread(unpicklable_result, backend, result, error) from error


async def _send_items(stream: ReplicaStream, items: AsyncIterator[Any], backend: str) -> None:
    stream.respond(encode_head(CallAnswer(False, -1, b"")), end=False)
    error = None
    try:
        async for item in items:
            try:
                await calls_answered.answer_item(stream, item)
            except SerializationError as unfit:
                raise await on_engine_thread(unpicklable_result, backend, item, unfit) from unfit
    except (asyncio.CancelledError, Lost):
        raise
    except BaseException as raised:
        error = raised
        _disprove(error)
    finally:
        await close_chunks(items)
    await calls_answered.answer_last(stream, error)


def is_cancelled() -> bool:
    """Whether the running task was cancelled from outside, rather than by what user code raised."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def mount_point(head: HttpHead) -> str:
    """Return where the application is mounted: the part of the path that is not the application's.

    Over the proxy it is the endpoint's route. On a route that an adapter forwards, it is what stands before the path
    parameter named `path`, if the route ends with one; else where the web application itself is mounted.
    """
    if head.forwarded:
        below = next((text for name, _, text in head.path_params if name == "path"), None)
        if below is not None and head.path.endswith(below):
            return head.path[: len(head.path) - len(below)].removesuffix("/")
    return head.root_path or ""
