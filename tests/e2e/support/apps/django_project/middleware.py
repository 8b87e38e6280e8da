"""What every answer passes."""

from __future__ import annotations

import os
from collections.abc import Awaitable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponseBase

from tests.e2e.support.apps.facts import WORKER


class NameWorker:
    """Says who answers; asynchronous where the stack is, so that Django adapts nothing."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Any) -> None:
        self._get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Add the header to the answer."""
        return self._answer(request) if self._is_async else _named(self._get_response(request))

    async def _answer(self, request: HttpRequest) -> HttpResponseBase:
        return _named(await self._get_response(request))


def _named(response: HttpResponseBase) -> HttpResponseBase:
    response.headers[WORKER] = str(os.getpid())
    return response
