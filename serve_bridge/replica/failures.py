"""Failures of user code, as answers to HTTP requests.

Rule 1: the log gets the exception of user code. The client gets a status and the request id.
"""

from __future__ import annotations

import asyncio
import logging

from python_multipart.exceptions import FormParserError
from starlette.exceptions import HTTPException

from serve_bridge.errors import UNAVAILABLE, ProtocolError, SerializationError, ServeBridgeError, failure_message
from serve_bridge.http.answers import Answer, fit_head, is_bodyless, problem, unavailable
from serve_bridge.wire import failure
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.heads import HttpAnswer, HttpHead, encode_head
from serve_bridge.wire.replica_end import ReplicaStream

_logger = logging.getLogger("serve_bridge.replica")


class BadRequest(Exception):
    """A fault of the caller: the method cannot take this request."""


def end_failed(stream: ReplicaStream, head: HttpHead, error: BaseException, *, left: bool = False) -> None:
    """End the answer to a request whose code raised *error*.

    Args:
        stream: The stream of the request.
        head: The head of the request.
        error: The exception; a CancelledError if the request was cancelled.
        left: Whether the client has left. Then *error* is not a failure of user code.
    """
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
    """Answer a request whose user code raised *error*; log *error*, and tell the proxy for its debug mode."""
    told = None
    if isinstance(error, FormParserError):  # Starlette before 1.7 raises it for a malformed form
        error = HTTPException(400, "Invalid multipart data.")
    if isinstance(error, HTTPException) and (raised := _raised_answer(error, head.request_id)) is not None:
        answer = raised
    elif isinstance(error, BadRequest):
        answer = problem(400, "Bad Request", str(error), head.request_id)
    elif isinstance(error, ServeBridgeError) and not isinstance(error, SerializationError | ProtocolError):
        # A nested call of user code failed. Its status says more than 500.
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
    """Log *error* of user code as an error, or at a lower level if an adapter in this process reports the failure.

    An adapter raises the failure in its framework, or logs it. A second error of the same process would be a second
    event in an error tracker. If the answer has begun, the adapter sees a broken answer without a reason, so the
    replica logs a warning. After a complete answer, as for a background task, the adapter sees no failure at all.
    """
    level = logging.ERROR
    if head.forwarded and stream.connection.is_of_this_process and (stream.may_send() or not stream.started):
        level = logging.WARNING if stream.started else logging.DEBUG
    _logger.log(level, failure_message(head.backend), head.request_id, exc_info=error)


def _raised_answer(error: HTTPException, request_id: str) -> Answer | None:
    """Return *error* as an answer; None if its status or headers cannot be sent."""
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


def is_cancelled() -> bool:
    """Return whether the running task was cancelled from outside; user code may raise CancelledError by itself."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
