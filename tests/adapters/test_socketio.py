"""Socket.IO: its server under `asgi_app`, and its client, through the proxy and each adapter that can mount it.

The server refuses a WebSocket whose scope lacks the headers `Connection: Upgrade` and `Upgrade: websocket`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import socketio
from django.core.asgi import get_asgi_application
from starlette.applications import Starlette
from starlette.routing import Mount

import serve_bridge as serve
from serve_bridge.adapters.asgi.application import ServeBridge as AsgiBridge
from serve_bridge.adapters.django.asgi import ServeBridge as DjangoBridge
from serve_bridge.adapters.starlette.extension import ServeBridge as StarletteBridge
from serve_bridge.testing.servers import serve_asgi
from tests.adapters.support.django_site import site

NAME = "chat"
BELOW = f"/{NAME}/{{path:path}}"
TIMEOUT_S = 30

server = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins=[])
application = socketio.ASGIApp(server, socketio_path=f"{NAME}/socket.io")


@server.event  # type: ignore[untyped-decorator]
async def shout(client: str, text: str) -> str:
    """Answer in capitals."""
    return text.upper()


@contextmanager
def proxy(client: serve.Client) -> Iterator[str]:
    """The standalone proxy."""
    yield client.http_urls[0]


@contextmanager
def starlette(client: serve.Client) -> Iterator[str]:
    """A Starlette application with a mount."""
    bridge = StarletteBridge(client.address)
    with serve_asgi(Starlette(routes=[Mount(f"/{NAME}", app=bridge.forward(NAME))])) as url:
        yield url
    bridge.close()


@contextmanager
def asgi(client: serve.Client) -> Iterator[str]:
    """The adapter for any ASGI framework."""
    bridge = AsgiBridge(client.address, routes={BELOW: NAME})
    with serve_asgi(bridge) as url:
        yield url
    bridge.close()


@contextmanager
def django(client: serve.Client) -> Iterator[str]:
    """Django's ASGI application in our wrapper."""
    with site(client), serve_asgi(DjangoBridge(get_asgi_application(), routes={BELOW: NAME})) as url:
        yield url


FRONTS: tuple[Callable[[serve.Client], AbstractContextManager[str]], ...] = (proxy, starlette, asgi, django)


@pytest.fixture(scope="module", autouse=True)
def instance(engine: serve.Client) -> Iterator[serve.Client]:
    """The instance of all adapters' tests, with the Socket.IO server behind an endpoint."""
    engine.create_backend(NAME, serve.asgi_app(application), config={"graceful_shutdown_timeout_s": 0.2})
    engine.create_endpoint(NAME, backend=NAME, route=f"/{NAME}")
    yield engine
    engine.delete_endpoint(NAME)
    engine.delete_backend(NAME)


@pytest.fixture(scope="module", params=FRONTS, ids=lambda front: front.__name__)
def url(request: pytest.FixtureRequest, instance: serve.Client) -> Iterator[str]:
    """Base URL of each front."""
    with request.param(instance) as url:
        yield url


@pytest.mark.parametrize("transports", [["websocket"], ["polling", "websocket"], ["polling"]], ids="+".join)
def test_socketio_works_over_each_of_its_transports(url: str, transports: list[str]) -> None:
    """A WebSocket from the start, one that polling was upgraded to, and polling alone."""

    async def run() -> tuple[Any, str]:
        client: Any = socketio.AsyncClient(reconnection=False)
        await client.connect(url, transports=transports, socketio_path=f"{NAME}/socket.io", wait_timeout=TIMEOUT_S)
        try:
            return await client.call("shout", "hello", timeout=TIMEOUT_S), client.transport()
        finally:
            await client.eio.disconnect(abort=True)  # without, polling waits for the server's time-out

    assert asyncio.run(run()) == ("HELLO", transports[-1])
