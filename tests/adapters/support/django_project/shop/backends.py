"""Backends that use the ORM as a view would."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection
from starlette.responses import StreamingResponse

import serve_bridge as serve
from serve_bridge.adapters.django import get_handle
from shop.models import Item


@serve.backend("count")
def count(request: Any) -> int:
    """Count the items."""
    return Item.objects.count()


@serve.backend("acount")
async def acount(request: Any) -> int:
    """Count the items without holding a thread."""
    return await Item.objects.acount()


@serve.backend("name_of")
def name_of(request: Any) -> str:
    """Return the name of an item."""
    return Item.objects.get(pk=request.path_params["pk"]).name


@serve.backend("me")
def me(request: Any) -> list[Any]:
    """Return who asks."""
    return [request.state.user_id, request.state.theme, "cookie" in request.headers]


@serve.backend("connection", max_concurrent_queries=1)
def connection_of(request: Any) -> list[int]:
    """Return which connection a call has: the server's process."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
    return [pid, Item.objects.count()]


@serve.backend("aconnection")
async def aconnection_of(request: Any) -> list[int]:
    """Return how many connections there are while it runs, and how many items."""
    return [await Item.objects.acount()]


@serve.backend("nested")
def nested(request: Any) -> int:
    """Count the items by another backend."""
    found: int = get_handle("acount").call()
    return found


@serve.backend("anested")
async def anested(request: Any) -> int:
    """Count the items by a service that is not asynchronous and calls another backend."""
    await Item.objects.acount()
    return await sync_to_async(nested)(request)


@serve.backend("looped")
def looped(request: Any) -> int:
    """Count the items by asynchronous code, from a thread."""
    return async_to_sync(acount)(request)


@serve.backend("streamed")
def streamed(request: Any) -> Iterator[str]:
    """Yield the number of items."""
    yield str(Item.objects.count())


@serve.backend("astreamed")
async def astreamed(request: Any) -> StreamingResponse:
    """Yield the number of items in the body of a response, which is iterated after the call."""

    async def body() -> AsyncIterator[str]:
        yield str(await Item.objects.acount())

    return StreamingResponse(body())


_meeting = threading.Barrier(2, timeout=30)


@serve.backend("meeting")
async def meeting(request: Any) -> int:
    """Wait in synchronous code until a second call does too."""
    return await sync_to_async(_meeting.wait)()


@serve.backend("watch")
async def watch(request: Any) -> AsyncIterator[int]:
    """Yield the number of items, and stay open."""
    yield await Item.objects.acount()
    await asyncio.Event().wait()
