"""Middleware of each kind, which the tests put in front of the project's own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import markcoroutinefunction
from django.http import HttpRequest, HttpResponseBase


def sync_only(get_response: Callable[[HttpRequest], HttpResponseBase]) -> Callable[[HttpRequest], HttpResponseBase]:
    """Return a middleware as people write it: Django runs it in a thread under ASGI."""
    return lambda request: get_response(request)


class AsyncOnly:
    """A middleware that Django gives a loop under WSGI."""

    sync_capable = False
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Awaitable[HttpResponseBase]]) -> None:
        self._get_response = get_response
        markcoroutinefunction(self)

    async def __call__(self, request: HttpRequest) -> Any:
        """Answer *request*."""
        return await self._get_response(request)
