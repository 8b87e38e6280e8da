"""Errors of `errors.UNAVAILABLE` in a view of an ASGI application: a missing endpoint or instance, or a full queue.

Rule 1: the error keeps its type, so a view can catch it. It is also Starlette's `HTTPException`, so a framework answers
    with 503 if the view does not catch it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_bridge.adapters.asgi.answers import fail, http_exception
from serve_bridge.adapters.bridge.outcome import refused
from serve_bridge.adapters.bridge.websocket_refusal import deny_websocket
from serve_bridge.errors import UNAVAILABLE, ServeBridgeError


def _as_itself(error: Any) -> Any:
    return type(error).__mro__[1], error.args  # a process that unpickles the error may have no framework


_KINDS: Final[Mapping[type, type[Exception]]] = {
    kind: type(kind.__name__, (kind, HTTPException), {"__module__": __name__, "__reduce__": _as_itself})
    for kind in UNAVAILABLE
}


@contextmanager
def unavailable_in_app() -> Iterator[None]:
    """Log an error of `errors.UNAVAILABLE`, and raise it as an error that is also an `HTTPException` with 503."""
    try:
        yield
    except UNAVAILABLE as error:
        raise _in_app(error) from None


def _in_app(error: ServeBridgeError) -> Exception:
    """Return a copy of *error* that is also the `HTTPException` of its answer."""
    if isinstance(error, HTTPException):
        return error
    answer = http_exception(refused(error, in_view=True))
    kind = next(_KINDS[each] for each in type(error).__mro__ if each in _KINDS)
    raised: Any = kind.__new__(kind, *error.args)
    raised.args = error.args
    raised.__dict__.update(error.__dict__)
    raised.status_code, raised.detail, raised.headers = answer.status_code, answer.detail, answer.headers
    return raised  # type: ignore[no-any-return]


async def answer_unavailable(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run *app*. If it raises an error of `errors.UNAVAILABLE` before it begins to answer, answer with 503."""
    answered = False

    async def sending(message: Message) -> None:
        nonlocal answered
        answered = True
        await send(message)

    try:
        await app(scope, receive, sending)
    except UNAVAILABLE as error:
        if answered:
            raise
        outcome = refused(error, in_view=True)
        if scope["type"] == "http":
            await fail(outcome, scope, send, handled=False)
        else:
            await deny_websocket(outcome, scope, send)
