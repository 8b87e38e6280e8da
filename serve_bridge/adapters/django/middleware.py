"""Middleware that forwards the routes of SERVE_BRIDGE["ROUTES"] ahead of the project's own URLs.

Rule 1: the middleware puts the routes before the URLs of the request, and leaves resolving and answering to Django. So
        all later middleware, `process_view`, error handlers and `reverse` treat them as any view.
Rule 2: the middleware is asynchronous if the next one is, so Django never has to adapt it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http import FileResponse, HttpRequest, HttpResponseBase, StreamingHttpResponse
from django.urls import Resolver404, resolve

from serve_bridge.adapters.bridge.outcome import refused
from serve_bridge.adapters.bridge.view_stream import ViewStream, async_view_stream
from serve_bridge.adapters.django.current_bridge import load_bridge
from serve_bridge.adapters.django.forwarded_response import ForwardedResponse
from serve_bridge.adapters.django.responses import whole_response
from serve_bridge.adapters.django.routes import routed_urls
from serve_bridge.adapters.django.settings import options
from serve_bridge.adapters.django.views import REQUEST_ID
from serve_bridge.context import in_request
from serve_bridge.errors import UNAVAILABLE

_NOT_MODIFIED: Final = 304


class ServeBridgeMiddleware:
    """Forwards the routes of the setting, and gives every request an id.

    Put it first in MIDDLEWARE, but after a middleware that sets `request.urlconf`.

    Views and calls of handles have the id of their request: `serve_bridge.request_id()` returns it. Error pages of
    forwarded requests have the header X-Request-Id, and so do answers from a cache. A view need not catch the error of
    a missing endpoint or instance, or of a full queue. The answer is a 503, as from a forwarded view.

    Raises:
        ConfigError, TypeError: The setting SERVE_BRIDGE is wrong.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self._get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        options()  # so that a wrong setting stops the start of the server
        load_bridge()

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponseBase | None:
        """Answer with 503 if a view has not caught an error of `errors.UNAVAILABLE`."""
        if not isinstance(exception, UNAVAILABLE):
            return None
        outcome = refused(exception, in_view=True)
        setattr(request, REQUEST_ID, outcome.request_id)
        return whole_response(outcome, request)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Answer *request*."""
        _put_routes_first(request)
        if self._is_async:
            return self._answer(request)
        with in_request(request.META.get("HTTP_X_REQUEST_ID")) as known:
            return _identified(request, self._get_response(request), known)

    async def _answer(self, request: HttpRequest) -> HttpResponseBase:
        with in_request(request.META.get("HTTP_X_REQUEST_ID")) as known:
            return _identified(request, await self._get_response(request), known)


def _put_routes_first(request: HttpRequest) -> None:
    base = getattr(request, "urlconf", None) or settings.ROOT_URLCONF
    urls = routed_urls(base, isinstance(request, ASGIRequest))
    if urls is not None:
        cast(Any, request).urlconf = urls


def _identified(request: HttpRequest, response: HttpResponseBase, known: str) -> HttpResponseBase:
    """Give *response* the id of *request*: as a header if it was forwarded, otherwise for the code of its stream."""
    named = getattr(request, REQUEST_ID, None)
    if named is None and _is_from_cache(request, response):
        named = known
    if named is not None and not response.has_header("X-Request-Id"):
        response["X-Request-Id"] = named
    if isinstance(response, StreamingHttpResponse) and not isinstance(response, ForwardedResponse | FileResponse):
        stream: Any = async_view_stream if response.is_async else ViewStream
        response.streaming_content = stream(response.streaming_content, known)
    return response


def _is_from_cache(request: HttpRequest, response: HttpResponseBase) -> bool:
    """Return whether *response* to this request, which was not forwarded, is the cached answer to a forwarded one."""
    if isinstance(response, ForwardedResponse):
        return True
    match = getattr(request, "resolver_match", None)
    if match is None and response.status_code == _NOT_MODIFIED:  # a site's cache answers before the URL is resolved
        try:
            match = resolve(request.path_info, getattr(request, "urlconf", None))
        except Resolver404:
            return False
    return hasattr(getattr(match, "func", None), "forwarded_route")
