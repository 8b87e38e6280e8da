"""The Django response, or the exception, for the outcome of a forwarded request.

Rule 1: an answer of user code passes unchanged; repeated headers and cookies stay repeated.
Rule 2: an exception of user code, and a fault of the project, is raised, so `handler500`, `process_exception` and
        `got_request_exception` see it. A fault of the client is raised as Django's 404 or 400. Other failures (413,
        502, 503, 504) have no exception in Django, so the answer is a problem document (RFC 9457).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final

from django.core.exceptions import BadRequest
from django.core.handlers.asgi import ASGIRequest
from django.http import Http404, HttpRequest, HttpResponseBase

from serve_bridge.adapters.bridge.forwarded_route import ForwardedRoute
from serve_bridge.adapters.bridge.outcome import Outcome
from serve_bridge.adapters.django.forwarded_response import StreamedResponse, WholeResponse
from serve_bridge.forwarding.refusals import UploadBroken

_RAISED: Final = frozenset({400, 404, 500})
"""Statuses of failures for which Django has an exception."""


def response_of(outcome: Outcome, route: ForwardedRoute, request: HttpRequest) -> HttpResponseBase:
    """Return the response to *request* for *outcome*.

    Raises:
        Http404: The backend has no such method.
        BadRequest: The request is malformed.
        BackendError: User code raised an exception of its own; the error has the remote traceback.
        ServeBridgeError: The project is at fault: a ConfigError or a SerializationError.
    """
    error, status = outcome.error, outcome.status
    if error is not None and not isinstance(error, UploadBroken):  # the client has left and reads no error page
        if status in _RAISED:
            _discard(outcome.body)
        if status == 404:
            raise Http404(f"endpoint {route.endpoint!r} does not have such a method") from error
        if status == 400:
            raise BadRequest(str(error)) from error
        if status == 500:
            raise error
    if isinstance(outcome.body, bytes):
        return whole_response(outcome, request)
    return _with_headers(StreamedResponse(_streamed(outcome.body, request), content_type="", status=status), outcome)


def whole_response(outcome: Outcome, request: HttpRequest) -> HttpResponseBase:
    """Return the response to *request* for *outcome*, whose body is bytes."""
    response = WholeResponse(outcome.body, content_type="", status=outcome.status)
    response.is_head = request.method == "HEAD"
    return _with_headers(response, outcome)


def _streamed(body: Any, request: HttpRequest) -> Any:
    """Return *body* as an iterator for Django: asynchronous under ASGI, even of a sync view; blocking under WSGI."""
    if not hasattr(body, "__next__"):
        return _AsyncChunks(body)
    return _ThreadedChunks(body) if isinstance(request, ASGIRequest) else body


class _AsyncChunks:
    """The chunks of a body on a loop. Django may close them in any thread, also before the first chunk was read."""

    def __init__(self, chunks: Any) -> None:
        self._chunks = chunks
        self._loop = asyncio.get_running_loop()

    def __aiter__(self) -> Any:
        return self._chunks

    def close(self) -> None:
        """Cancel the rest of the body."""
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._chunks.aclose(), self._loop)


class _ThreadedChunks:
    """The chunks of an answer to a sync view under ASGI. Without this class, Django would collect all chunks first."""

    def __init__(self, chunks: Any) -> None:
        self._chunks = chunks
        self.close = chunks.close

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (chunk := await asyncio.to_thread(next, self._chunks, None)) is not None:
            yield chunk


def _with_headers(response: Any, outcome: Outcome) -> HttpResponseBase:
    headers = response.headers
    del headers["content-type"]
    values: dict[str, list[str]] = {}
    for name, value in outcome.text_headers:
        if name == "set-cookie":
            _set_cookie(response, value)
        elif name in values:
            values[name].append(value)
        else:
            values[name] = [value]
    for name, each in values.items():
        headers[name] = each[0] if len(each) == 1 else ", ".join(each)
    repeated = {name: (headers[name], each) for name, each in values.items() if len(each) > 1}
    if repeated:
        response.repeated = repeated
    return response


def _set_cookie(response: Any, header: str) -> None:
    """Set a cookie so that middleware sees it. A cookie that Django would change is kept in `raw_cookies`."""
    parsed: SimpleCookie = SimpleCookie()
    try:
        parsed.load(header)
    except CookieError:
        parsed.clear()
    name, morsel = next(iter(parsed.items()), ("", None))
    if morsel is not None and name not in response.cookies and _parts(morsel.OutputString()) == _parts(header):
        response.cookies[name] = morsel
    else:
        response.add_raw_cookie(header)


def _parts(cookie: str) -> list[str]:
    """Return the parts of *cookie* to compare. Python's parser drops all parts after one that it cannot parse."""
    return sorted(part.strip().lower() for part in cookie.split(";"))


def _discard(body: Any) -> None:
    if isinstance(body, bytes):
        return
    if hasattr(body, "close"):
        body.close()
    else:
        _AsyncChunks(body).close()
