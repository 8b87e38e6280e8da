"""Answers over ASGI: those of user code, and those to failed requests.

Rule 1: an answer is complete or visibly broken: one start, the body in order, and an end only if the backend sent it.
Rule 2: inside a Starlette application a failure is raised. Otherwise the answer is a problem document.
"""

from __future__ import annotations

import http.client
from contextlib import aclosing, suppress
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.types import Message, Scope, Send

from serve_bridge.adapters.asgi.requester import ClientLeft, Requester
from serve_bridge.adapters.bridge.outcome import Outcome, report
from serve_bridge.http.headers import HeaderList

_HANDLERS: Final = "starlette.exception_handlers"
_REPORTED: Final = 500
"""Lowest status whose `HTTPException` error trackers report, though a Starlette application answers it."""
_RAISED: Final = frozenset({"x-request-id", "x-serve-executed", "retry-after", "allow"})


async def fail(outcome: Outcome, scope: Scope, send: Send, *, handled: bool = True) -> None:
    """Send the answer to a failed request. If *handled* and inside a Starlette application, raise it instead.

    Raises:
        HTTPException: The exception for the application's handlers.
    """
    if handled and _HANDLERS in scope:
        raise http_exception(outcome) from outcome.error
    report(outcome)
    with suppress(OSError):  # the client has left
        await send({"type": "http.response.start", "status": outcome.status, "headers": outcome.headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else outcome.body})


def http_exception(outcome: Outcome) -> HTTPException:
    """Return the exception for a failed *outcome*, and log the error unless the framework will."""
    report(outcome, raised=outcome.status >= _REPORTED)
    headers = {name: value for name, value in outcome.text_headers if name in _RAISED}
    # With a text, because Starlette before 1.7 raises ValueError for a status without a standard text, such as 499.
    return HTTPException(outcome.status, http.client.responses.get(outcome.status, ""), headers)


async def send_answer(
    status: int, headers: HeaderList, body: Any, scope: Scope, send: Send, requester: Requester
) -> None:
    """Send an answer of user code, until it ends or the client leaves.

    Args:
        status: The status of the answer.
        headers: The headers of the answer.
        body: The whole body, or an asynchronous iterator of its chunks, which is closed in every case.
        scope: The scope of the request.
        send: The `send` of the request.
        requester: The client, which is watched while chunks are sent.

    Raises:
        AnswerBroken: The backend has not finished the answer.
    """
    start = {"type": "http.response.start", "status": status, "headers": headers}
    has_no_body = scope["method"] == "HEAD"
    if isinstance(body, bytes):
        await send(start)
        await send({"type": "http.response.body", "body": b"" if has_no_body else body})
        return
    with suppress(ClientLeft), requester:
        async with aclosing(body) as chunks:
            await send(start)
            if not has_no_body:
                async for chunk in chunks:
                    await _deliver({"type": "http.response.body", "body": chunk, "more_body": True}, send)
        await _deliver({"type": "http.response.body", "body": b""}, send)


async def _deliver(message: Message, send: Send) -> None:
    try:
        await send(message)
    except OSError as error:  # by the server, when the client has left (ASGI 2.4)
        raise ClientLeft from error
