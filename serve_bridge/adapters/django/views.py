"""Views that forward their requests to endpoints."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, Unpack

from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.http.request import RawPostDataException
from django.test.client import encode_multipart

from serve_bridge.adapters.bridge import Outcome
from serve_bridge.adapters.django.connection import bridge
from serve_bridge.adapters.route import ForwardedRoute, RouteOptions
from serve_bridge.adapters.wsgi import headers_of, peer_of, server_of

View = Callable[..., HttpResponseBase]
AsyncView = Callable[..., Awaitable[HttpResponseBase]]
_View = TypeVar("_View", bound=Callable[..., Any])


def bridge_view(endpoint: str, **options: Unpack[RouteOptions]) -> View:
    """Return a view that forwards its requests to *endpoint*; see `RouteOptions` for the options.

    Every HTTP method is forwarded; Django's decorators (`require_POST`, `login_required`, `csrf_exempt`)
    apply as to any view. What goes wrong on the way has its own status (404, 502, 503, 504) and a problem
    (RFC 9457) as its body.

    Raises:
        TypeError, ConfigError: An option is unknown, or has a value that it cannot have.
    """
    route = ForwardedRoute(endpoint, options)

    def view(request: HttpRequest, **path_params: Any) -> HttpResponseBase:
        return _response(bridge().ask(route, _scope(request), path_params, _body(request), request))

    return _named(view, endpoint)


def abridge_view(endpoint: str, **options: Unpack[RouteOptions]) -> AsyncView:
    """Same as `bridge_view`, as an `async def` view for ASGI: it holds no thread while it waits."""
    route = ForwardedRoute(endpoint, options)

    async def view(request: HttpRequest, **path_params: Any) -> HttpResponseBase:
        return _response(await bridge().ask_async(route, _scope(request), path_params, _body(request), request))

    return _named(view, endpoint)


def _named(view: _View, endpoint: str) -> _View:
    view.__name__ = view.__qualname__ = f"serve_bridge_{endpoint}"
    return view


def _scope(request: HttpRequest) -> dict[str, Any]:
    meta = request.META
    root_path = getattr(request, "script_name", None) or meta.get("SCRIPT_NAME", "")
    return {
        "type": "http",
        "method": request.method or "GET",
        "scheme": request.scheme,
        "http_version": meta.get("SERVER_PROTOCOL", "HTTP/1.1").partition("/")[2] or "1.1",
        "path": request.path,
        "root_path": root_path.rstrip("/"),
        "query_string": meta.get("QUERY_STRING", "").encode("latin-1"),
        "headers": headers_of(meta),
        "client": peer_of(meta),
        "server": server_of(meta),
    }


def _body(request: HttpRequest) -> bytes:
    """Return the whole body, as it came; of a form that Django has read already, the same form written again.

    Raises:
        RequestDataTooBig: It is longer than DATA_UPLOAD_MAX_MEMORY_SIZE; Django answers 400.
    """
    try:
        return bytes(request.body)
    except RawPostDataException:
        # CsrfViewMiddleware reads an upload when the token comes in the form and not in the header.
        if request.content_type != "multipart/form-data":
            raise
        parts: dict[str, list[Any]] = dict(request.POST.lists())
        for name, files in request.FILES.lists():
            parts.setdefault(name, []).extend(files)
        return bytes(encode_multipart(request.content_params["boundary"], parts))


def _response(outcome: Outcome) -> HttpResponseBase:
    # From `abridge_view` the chunks are asynchronous, which is what Django streams under ASGI.
    whole = isinstance(outcome.body, bytes)
    response = (HttpResponse if whole else StreamingHttpResponse)(outcome.body, status=outcome.status)
    del response.headers["content-type"]
    for name, value in outcome.text_headers:
        if name == "set-cookie":
            _set_cookie(response, value)
        elif name in response.headers:
            response.headers[name] = f"{response.headers[name]}, {value}"
        else:
            response.headers[name] = value
    return response


def _set_cookie(response: HttpResponseBase, header: str) -> None:
    # Django sends one Set-Cookie for each morsel; a second header of one name would replace the first.
    response.cookies.load(header)
