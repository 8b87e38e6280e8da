"""All views over all backends behind all kinds of middleware, for the tests."""

from __future__ import annotations

from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings

_BACKENDS = ("count", "acount", "nested", "anested", "looped")
_STREAMS = ("streamed", "astreamed")
_MIDDLEWARE = ("shop.middleware.sync_only", "whitenoise.middleware.WhiteNoiseMiddleware", "shop.middleware.AsyncOnly")

PATHS = [
    *(f"/{view}/{backend}/" for view in ("called", "acalled") for backend in _BACKENDS),
    *(f"/{view}/{backend}/" for view in ("forwarded", "aforwarded") for backend in (*_BACKENDS, *_STREAMS)),
]
"""The path of each view over each backend; every one answers with the number of items."""
STACKS = [
    settings.MIDDLEWARE,
    *([each, *settings.MIDDLEWARE] for each in _MIDDLEWARE),
    *([*settings.MIDDLEWARE, each] for each in _MIDDLEWARE),
]
"""The middleware of the project: alone, behind one of each kind, in front of one of each kind."""


def body_of(answer: Any) -> bytes:
    """Return the body of an answer, streamed or not."""
    return b"".join(answer.streaming_content) if answer.streaming else answer.content


async def abody_of(answer: Any) -> bytes:
    """Same as `body_of`, of an asynchronous client."""
    if not answer.streaming:
        return bytes(answer.content)
    if answer.is_async:
        return b"".join([chunk async for chunk in answer.streaming_content])
    return await sync_to_async(body_of)(answer)
