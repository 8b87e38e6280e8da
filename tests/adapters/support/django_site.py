"""A Django site in this process, in front of the endpoints; and endpoints that only its tests need."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import include, path
from starlette.responses import Response, StreamingResponse
from starlette.websockets import WebSocket

import serve_bridge as serve
from serve_bridge.adapters.django import abridge_view, bridge_view

URLS = __name__
MIDDLEWARE = "serve_bridge.adapters.django.middleware.ServeBridgeMiddleware"
CSRF = "django.middleware.csrf.CsrfViewMiddleware"
CONTEXT = {"user": "tests_user.name", "missing": "tests_user.nothing"}


def state(request: Any) -> dict[str, Any]:
    """Return what the app has sent along."""
    return dict(request.state._state)


async def size(request: Any) -> dict[str, Any]:
    """Return how long a body is, without holding it."""
    length = 0
    async for chunk in request.stream():
        length += len(chunk)
    return {"length": length, "announced": request.headers.get("content-length")}


async def uploaded(request: Any) -> list[Any]:
    """Return the parts of a form, in their order."""
    async with request.form() as fields:
        return [
            [name, value] if isinstance(value, str) else [name, value.filename, value.content_type, value.size]
            for name, value in fields.multi_items()
        ]


HALF_PARSED = ("sid=1;; HttpOnly; Secure", "way=1; Path=/caf\xe9; HttpOnly", 'odd=1; Domain="a.b"; Path=/"x; Secure')
"""Cookies of which Python's parser drops parts without an error."""


def repeated(request: Any) -> Response:
    """Return repeated headers and cookies, and cookies that Python does not parse, or only in part."""
    response = Response(b"")
    for name, value in [
        ("link", "</a>; rel=a"),
        ("link", "</b>; rel=b"),
        ("vary", "Accept"),
        ("set-cookie", "one=1; Path=/a"),
        ("set-cookie", "one=2; Path=/b"),
        ("set-cookie", "new=1; Path=/; Fresh; Partitioned"),
        *(("set-cookie", cookie) for cookie in HALF_PARSED),
    ]:
        response.headers.append(name, value)
    return response


async def events(request: Any) -> StreamingResponse:
    """Send events until the client leaves."""

    async def items() -> AsyncIterator[str]:
        for number in range(1_000_000):
            yield f"data: {number}\n\n"
            await asyncio.sleep(0.01)

    return StreamingResponse(items(), media_type="text/event-stream")


class Talk:
    """Repeats what a WebSocket says."""

    async def __call__(self, websocket: WebSocket) -> None:
        """Be connected."""
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(f"{websocket.path_params.get('topic', '')}: {text}")


BACKENDS = (state, size, uploaded, repeated, events, Talk)


def add_backends(client: serve.Client) -> None:
    """Create a backend and an endpoint for each that is not there yet."""
    known = client.list_endpoints()
    for backend in BACKENDS:
        name = backend.__name__.lower()
        if name not in known:
            client.create_backend(name, backend)
            client.create_endpoint(name, backend=name)


@contextmanager
def site(client: serve.Client, *, urls: str = URLS, **settings: Any) -> Iterator[None]:
    """Let settings be in force under which *urls* lead to the endpoints of *client*."""
    add_backends(client)
    own = {"ADDRESS": client.address, **settings.pop("SERVE_BRIDGE", {})}
    given = {"ALLOWED_HOSTS": ["testserver"], "MIDDLEWARE": [MIDDLEWARE], **settings}
    with override_settings(ROOT_URLCONF=urls, SERVE_BRIDGE=own, **given):
        yield


class Recording:
    """Receives signals, and keeps what they tell."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def __call__(self, **told: Any) -> None:
        """Receive one."""
        self.told.append(told)


def page(request: HttpRequest) -> HttpResponse:
    """Be a page of the project's own."""
    return HttpResponse("the project's page")


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Be the project's page for what is not there."""
    return HttpResponse(f"the project's 404 for {getattr(request, 'serve_bridge_request_id', 'nobody')}", status=404)


def failed(request: HttpRequest) -> HttpResponse:
    """Be the project's page for what failed."""
    return HttpResponse("the project's 500", status=500)


def bad(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Be the project's page for bad requests."""
    return HttpResponse("the project's 400", status=400)


def read_first(view: Any, attribute: str) -> Any:
    """Return *view* behind something that uses an attribute of the request, or reads a byte of it."""

    def reading(request: HttpRequest, **path_params: Any) -> Any:
        getattr(request, attribute) if attribute != "read" else request.read(1)
        return view(request, **path_params)

    return reading


handler400 = bad
handler404 = not_found
handler500 = failed

NAMES = ("state", "size", "uploaded", "repeated", "events", "echo", "form", "chunks", "failing", "answer", "missing")

urlpatterns: list[Any] = [
    path("page/", page, name="page"),
    path("routes/", include("serve_bridge.adapters.django.urls")),
    path("state/", bridge_view("state", context=CONTEXT)),
    path("async/state/", abridge_view("state", context=CONTEXT)),
    path("limited/", bridge_view("size", max_body_bytes=10)),
    path("typed/<int:number>/<uuid:key>/<slug:word>/", bridge_view("echo")),
    path("unexposed/", bridge_view("counter", method_name="missing")),
    path("async/unexposed/", abridge_view("counter", method_name="missing")),
    path("exempt/", bridge_view("size", csrf_exempt=True)),
    path("after-body/", read_first(bridge_view("size"), "body")),
    path("after-post/", read_first(bridge_view("uploaded"), "POST")),
    path("after-read/", read_first(bridge_view("size"), "read")),
    *(path(f"{name}/", bridge_view(name), name=name) for name in NAMES),
    *(path(f"async/{name}/", abridge_view(name), name=f"async-{name}") for name in NAMES),
]
