"""What every answer passes."""

from __future__ import annotations

import os
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

from tests.e2e.apps.facts import WORKER


@sync_and_async_middleware
def name_worker(get_response: Any) -> Any:
    """Say who answers."""

    def sync_middleware(request: HttpRequest) -> HttpResponseBase:
        return _named(get_response(request))

    async def async_middleware(request: HttpRequest) -> HttpResponseBase:
        return _named(await get_response(request))

    return async_middleware if iscoroutinefunction(get_response) else sync_middleware


def _named(response: HttpResponseBase) -> HttpResponseBase:
    response.headers[WORKER] = str(os.getpid())
    return response
