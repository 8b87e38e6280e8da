"""The whole body of a web request that a caller passes on with a handle."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from starlette.requests import Request

from serve_bridge.errors import SerializationError
from serve_bridge.http.body_length import body_length

_UNREAD: Final = "the request's body has not been read; `await request.body()` before you pass it on"


def cached_body(request: Request[Any]) -> bytes | None:
    """Return the whole body if that takes no waiting: it is here, or there is none; else None."""
    body: bytes | None = getattr(request, "_body", None)
    if body is not None:
        return body
    if body_length(request.scope) == 0:
        return b""
    whole: bytes | None = getattr(request.receive, "whole", None)
    return None if _is_begun(request) else whole


async def body_on_loop(request: Request[Any]) -> bytes:
    """Return the whole body, on the loop that receives it.

    Raises:
        SerializationError: A part of it was streamed before, so that it cannot be passed on whole.
    """
    if not hasattr(request, "_body") and _is_begun(request):
        raise SerializationError(_UNREAD)
    return await request.body()


def body_in_thread(request: Request[Any]) -> bytes:
    """Return the whole body, from a thread that runs no loop.

    What was read already is not read again. What is still on its way is awaited on the loop that receives it.

    Raises:
        SerializationError: No other thread's loop can be asked for the body, or it was streamed before.
    """
    body = cached_body(request)
    if body is not None:
        return body
    loop: asyncio.AbstractEventLoop | None = getattr(request.receive, "loop", None)
    if loop is None or _is_begun(request) or asyncio._get_running_loop() is not None:
        raise SerializationError(_UNREAD)
    return asyncio.run_coroutine_threadsafe(request.body(), loop).result()


def _is_begun(request: Request[Any]) -> bool:
    """Return whether something of the body was taken and not kept."""
    return request._stream_consumed or getattr(request.receive, "begun", False)
