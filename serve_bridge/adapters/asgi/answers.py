"""Answers over ASGI: those of user code, and those of requests that failed.

Rule 1: an answer is whole or visibly broken: one start, its body in order, an end only where there was one.
Rule 2: a failure is raised where a Starlette application will handle it. Otherwise it is answered with a problem.
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
"""From this status on, error trackers report an `HTTPException` that a Starlette application answers."""
_RAISED: Final = frozenset({"x-request-id", "x-serve-executed", "retry-after", "allow"})


async def fail(outcome: Outcome, scope: Scope, send: Send, *, handled: bool = True) -> None:
    """Raise what went wrong where an application handles it, else send it.

    Raises:
        HTTPException: It does.
    """
    if handled and _HANDLERS in scope:
        raise http_exception(outcome) from outcome.error
    report(outcome)
    with suppress(OSError):  # the client has left
        await send({"type": "http.response.start", "status": outcome.status, "headers": outcome.headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else outcome.body})


def http_exception(outcome: Outcome) -> HTTPException:
    """Return the exception that stands for a failed *outcome*, and log it unless the framework will."""
    report(outcome, raised=outcome.status >= _REPORTED)
    headers = {name: value for name, value in outcome.text_headers if name in _RAISED}
    # With a text of its own: Starlette before 1.7 raises ValueError for a status that it has no text for, such as 499.
    return HTTPException(outcome.status, http.client.responses.get(outcome.status, ""), headers)


async def send_answer(
    status: int, headers: HeaderList, body: Any, scope: Scope, send: Send, requester: Requester
) -> None:
    """Send an answer of user code; it ends early if the client leaves, or with an exception if it broke off.

    Args:
        status: Its status.
        headers: Its headers.
        body: All of its body, or what iterates that; closed in every case.
        scope: Of the request.
        send: Of the request.
        requester: Who is watched meanwhile.

    Raises:
        AnswerBroken: The backend has not finished it.
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
    except OSError as error:  # what a server raises whose client has left (ASGI 2.4)
        raise ClientLeft from error
