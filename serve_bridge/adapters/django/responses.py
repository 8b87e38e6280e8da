"""From an outcome to Django's response, or to the exception that Django's own error handling is made for.

Rule 1: an answer of user code passes as it is; repeated headers and cookies stay repeated.
Rule 2: what user code raised, and what is wrong with the project, is raised: `handler500`, `process_exception` and
        `got_request_exception` see it. So is what the client did: 404 and 400. What has no exception in Django (413,
        502, 503, 504) is answered with a problem (RFC 9457).
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
    """Return the response to *request* that *outcome* is.

    Raises:
        Http404: The backend has no such method.
        BadRequest: The client is to blame.
        BackendError: User code raised, and did not only meet a failure of the engine; it has the remote traceback.
        ServeBridgeError: The project is to blame: a ConfigError, a SerializationError.
    """
    error, status = outcome.error, outcome.status
    if error is not None and not isinstance(error, UploadBroken):  # a client that has left reads no error page
        if status in _RAISED:
            _discard(outcome.body)
        if status == 404:
            raise Http404(f"endpoint {route.endpoint!r} does not answer this") from error
        if status == 400:
            raise BadRequest(str(error)) from error
        if status == 500:
            raise error
    if isinstance(outcome.body, bytes):
        return whole_response(outcome, request)
    return _with_headers(StreamedResponse(_streamed(outcome.body, request), content_type="", status=status), outcome)


def whole_response(outcome: Outcome, request: HttpRequest) -> HttpResponseBase:
    """Return the response to *request* with all of the body of *outcome*."""
    response = WholeResponse(outcome.body, content_type="", status=outcome.status)
    response.is_head = request.method == "HEAD"
    return _with_headers(response, outcome)


def _streamed(body: Any, request: HttpRequest) -> Any:
    """Return *body* as Django streams it: under ASGI asynchronously, whatever the view is, else blocking."""
    if not hasattr(body, "__next__"):
        return _AsyncChunks(body)
    return _ThreadedChunks(body) if isinstance(request, ASGIRequest) else body


class _AsyncChunks:
    """The chunks of a body on a loop; closed from any thread, as Django does, whether or not anybody read them."""

    def __init__(self, chunks: Any) -> None:
        self._chunks = chunks
        self._loop = asyncio.get_running_loop()

    def __aiter__(self) -> Any:
        return self._chunks

    def close(self) -> None:
        """Give up what has not come."""
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._chunks.aclose(), self._loop)


class _ThreadedChunks:
    """The chunks of a body that a sync view has asked for under ASGI; Django would gather all of them first."""

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
    """Set the cookie so that middleware sees it; one that Django could not send as it came is sent apart."""
    parsed: SimpleCookie = SimpleCookie()
    try:
        parsed.load(header)
    except CookieError:
        parsed.clear()
    name, morsel = next(iter(parsed.items()), ("", None))
    if len(parsed) == 1 and name not in response.cookies:
        response.cookies[name] = morsel
    else:
        response.raw_cookies += (header,)


def _discard(body: Any) -> None:
    if isinstance(body, bytes):
        return
    if hasattr(body, "close"):
        body.close()
    else:
        _AsyncChunks(body).close()
