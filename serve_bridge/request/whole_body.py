"""The whole body of a web request, for a caller that passes the request on with a handle."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from starlette.requests import Request

from serve_bridge.errors import SerializationError
from serve_bridge.http.body_length import body_length

_UNREAD: Final = "the request's body has not been read; `await request.body()` before you pass it on"


def cached_body(request: Request[Any]) -> bytes | None:
    """Return the whole body if it is here, or if the request has none; None if it has yet to arrive."""
    body: bytes | None = getattr(request, "_body", None)
    if body is not None:
        return body
    if body_length(request.scope) == 0:
        return b""
    whole: bytes | None = getattr(request.receive, "whole", None)
    return None if _is_begun(request) else whole


async def body_on_loop(request: Request[Any]) -> bytes:
    """Return the whole body, on the loop of its connection.

    Raises:
        SerializationError: A part of the body was streamed before, so the rest is not the whole body.
    """
    if not hasattr(request, "_body") and _is_begun(request):
        raise SerializationError(_UNREAD)
    return await request.body()


def body_in_thread(request: Request[Any]) -> bytes:
    """Return the whole body, from a thread without a loop.

    A body read before is not read again. For a body still on its way, this thread waits for the loop of its connection.

    Raises:
        SerializationError: The body belongs to no loop of another thread, or a part of it was streamed before.
    """
    body = cached_body(request)
    if body is not None:
        return body
    loop: asyncio.AbstractEventLoop | None = getattr(request.receive, "loop", None)
    if loop is None or _is_begun(request) or asyncio._get_running_loop() is not None:
        raise SerializationError(_UNREAD)
    return asyncio.run_coroutine_threadsafe(request.body(), loop).result()


def _is_begun(request: Request[Any]) -> bool:
    """Return whether a part of the body was read and not kept."""
    return request._stream_consumed or getattr(request.receive, "begun", False)
