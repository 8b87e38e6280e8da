"""The ways of a WebSocket to an endpoint, over a real socket: the proxy, and Starlette and Django under uvicorn."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from django.core.asgi import get_asgi_application
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

import serve_bridge as serve
from serve_bridge.adapters.django.asgi import ServeBridge as DjangoBridge
from serve_bridge.adapters.starlette.extension import ServeBridge as StarletteBridge
from serve_bridge.testing.servers import serve_asgi
from tests.adapters.support.django_site import site

NAME = "talking"


async def echo(websocket: WebSocket) -> None:
    """Send back what comes, until the client leaves."""
    await websocket.accept()
    with contextlib.suppress(WebSocketDisconnect):
        while (message := await websocket.receive())["type"] == "websocket.receive":
            text = message.get("text")
            await (websocket.send_text(text) if text is not None else websocket.send_bytes(message["bytes"]))


@contextmanager
def proxy(client: serve.Client) -> Iterator[str]:
    """The standalone proxy."""
    yield client.http_urls[0]


@contextmanager
def starlette(client: serve.Client) -> Iterator[str]:
    """A Starlette application with a route."""
    bridge = StarletteBridge(client.address)
    with serve_asgi(Starlette(routes=[WebSocketRoute(f"/{NAME}", bridge.forward(NAME))])) as url:
        yield url
    bridge.close()


@contextmanager
def django(client: serve.Client) -> Iterator[str]:
    """Django's ASGI application in our wrapper."""
    with site(client), serve_asgi(DjangoBridge(get_asgi_application(), routes={f"/{NAME}": NAME})) as url:
        yield url


@contextmanager
def bare(client: serve.Client) -> Iterator[str]:
    """An application that echoes by itself, under the server that the adapters are under."""
    with serve_asgi(Starlette(routes=[WebSocketRoute(f"/{NAME}", echo)])) as url:
        yield url


FRONTS: dict[str, Callable[[serve.Client], AbstractContextManager[str]]] = {
    front.__name__: front for front in (proxy, starlette, django, bare)
}


def websocket_url(url: str, query: Any = "") -> str:
    """Return where the endpoint is, of a front's base URL."""
    return f"ws{url.removeprefix('http')}/{NAME}{query}"
