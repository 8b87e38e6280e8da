"""Backends that use the ORM as a view would."""

from __future__ import annotations

from typing import Any

from django.db import connection

import serve_bridge as serve
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
