"""Errors of what cannot be reached now, in the terms of an ASGI framework: its own exception with status 503.

Rule 1: an error keeps its type, so that a view can catch it as everywhere else. It is Starlette's `HTTPException` too,
    so that a view that does not catch it is answered as a forwarded route is.
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
    return type(error).__mro__[1], error.args  # elsewhere no framework answers it


_KINDS: Final[Mapping[type, type[Exception]]] = {
    kind: type(kind.__name__, (kind, HTTPException), {"__module__": __name__, "__reduce__": _as_itself})
    for kind in UNAVAILABLE
}


@contextmanager
def unavailable_in_app() -> Iterator[None]:
    """Raise an error of `errors.UNAVAILABLE` so that an ASGI framework answers it with 503; it is logged."""
    try:
        yield
    except UNAVAILABLE as error:
        raise _in_app(error) from None


def _in_app(error: ServeBridgeError) -> Exception:
    """Return *error* as one that is also the `HTTPException` of its answer."""
    if isinstance(error, HTTPException):
        return error
    answer = http_exception(refused(error))
    kind = next(_KINDS[each] for each in type(error).__mro__ if each in _KINDS)
    raised: Any = kind.__new__(kind, *error.args)
    raised.args = error.args
    raised.__dict__.update(error.__dict__)
    raised.status_code, raised.detail, raised.headers = answer.status_code, answer.detail, answer.headers
    return raised  # type: ignore[no-any-return]


async def answer_unavailable(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run *app*; if it raises one of `errors.UNAVAILABLE` before it has answered, answer with 503."""
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
        outcome = refused(error)
        if scope["type"] == "http":
            await fail(outcome, scope, send, handled=False)
        else:
            await deny_websocket(outcome, scope, send)
