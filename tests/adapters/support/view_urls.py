"""The URLs of the Django project in `view_sites`."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

import serve_bridge as serve
from serve_bridge.adapters.django import abridge_view, bridge_view, get_handle

from .view_sites import LOST, MISSING, ids_later, ids_later_async


def ids(request: HttpRequest) -> Any:
    """Tell the id here and in a backend."""
    return JsonResponse([serve.request_id(), *get_handle("seen").call()], safe=False)


async def async_ids(request: HttpRequest) -> Any:
    """Tell the id here and in a backend."""
    return JsonResponse([serve.request_id(), *await get_handle("seen").acall()], safe=False)


def streamed(request: HttpRequest) -> Any:
    """Tell the id here and in a backend, after the view has returned."""
    return StreamingHttpResponse(ids_later(get_handle))


async def async_streamed(request: HttpRequest) -> Any:
    """Tell the id here and in a backend, after the view has returned."""
    return StreamingHttpResponse(ids_later_async(get_handle))


def called(request: HttpRequest) -> Any:
    """Call what is not there."""
    return JsonResponse(get_handle(MISSING).call(), safe=False)


async def async_called(request: HttpRequest) -> Any:
    """Call what is not there."""
    return JsonResponse(await get_handle(MISSING).acall(), safe=False)


def caught(request: HttpRequest) -> Any:
    """Call what is not there, and catch that."""
    try:
        return called(request)
    except LOST:
        return HttpResponse("caught")


urlpatterns = [
    path("ids", ids),
    path("streamed", streamed),
    path("called", called),
    path("caught", caught),
    path("forwarded", bridge_view(MISSING)),
    path("async/ids", async_ids),
    path("async/streamed", async_streamed),
    path("async/called", async_called),
    path("async/caught", caught),
    path("async/forwarded", abridge_view(MISSING)),
]
