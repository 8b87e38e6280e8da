"""Django: the ASGI wrapper that answers chosen routes, and WebSockets, ahead of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import re_path
from starlette.applications import Starlette
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

import serve_bridge as serve
from serve_bridge.adapters.django import get_client
from serve_bridge.adapters.django.asgi import ServeBridge
from serve_bridge.errors import ConfigError, InstanceClosed
from tests.adapters.support.asgi_calls import body_of, called, http_scope, types_of
from tests.adapters.support.django_site import site

ROUTES: dict[str, Any] = {
    "/echo/{count:int}": {"endpoint": "echo", "methods": ["GET"]},
    "/talk/{topic}": "talk",
    "/page/only-by-post/": {"endpoint": "counter", "methods": ["POST"]},
}
LIFESPAN = {"type": "lifespan", "asgi": {"version": "3.0"}}
LIFE = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]


@pytest.fixture(autouse=True, scope="module")
def running(engine: serve.Client) -> Iterator[None]:
    """The site."""
    with site(engine):
        yield


@pytest.fixture(scope="module")
def app() -> ServeBridge:
    """Django, and routes ahead of it."""
    return ServeBridge(get_asgi_application(), routes=ROUTES)


def test_a_route_is_answered_ahead_of_django(app: ServeBridge) -> None:
    """With its parameters in Starlette's syntax."""
    sent = called(app, http_scope("/echo/7"))
    assert b'"count":["int","7"]' in body_of(sent)


def test_what_is_not_named_is_djangos(app: ServeBridge) -> None:
    """Other paths, and other methods of a path."""
    assert body_of(called(app, http_scope("/page/"))) == b"the project's page"
    assert body_of(called(app, http_scope("/page/only-by-post/"))).startswith(b"the project's 404")


def test_a_websocket_is_carried(app: ServeBridge) -> None:
    """Which Django itself does not know."""
    with TestClient(app).websocket_connect("/talk/news") as socket:
        socket.send_text("hello")
        assert socket.receive_text() == "news: hello"


def test_a_websocket_that_leads_nowhere_is_denied(app: ServeBridge) -> None:
    """Django would raise, for any client that tries."""
    with pytest.raises(WebSocketDisconnect), TestClient(app).websocket_connect("/elsewhere"):
        pass


async def consumer(scope: Any, receive: Any, send: Any) -> None:
    """Be a WebSocket of the project's own."""
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": "the project's own"})
    await receive()


@pytest.mark.parametrize("is_outside", [True, False])
def test_it_stands_inside_channels_and_around_it(is_outside: bool) -> None:
    """What is not named is Channels' to route."""
    own = URLRouter([re_path("^own/$", consumer)])
    if is_outside:
        router = ProtocolTypeRouter({"http": get_asgi_application(), "websocket": own})
        app: Any = ServeBridge(router, routes=ROUTES)
    else:
        inside = ServeBridge(own, routes=ROUTES)
        app = ProtocolTypeRouter({"http": ServeBridge(get_asgi_application(), routes=ROUTES), "websocket": inside})
    with TestClient(app).websocket_connect("/talk/news") as socket:
        socket.send_text("hello")
        assert socket.receive_text() == "news: hello"
    with TestClient(app).websocket_connect("/own/") as socket:
        assert socket.receive_text() == "the project's own"
    assert body_of(called(app, http_scope("/page/"))) == b"the project's page"
    assert b'"count":["int","7"]' in body_of(called(app, http_scope("/echo/7")))


def test_the_servers_life_is_answered(app: ServeBridge) -> None:
    """In place of Django, which knows none; at its end the instance is let go of."""
    client = get_client()
    sent = called(app, LIFESPAN, LIFE)
    assert types_of(sent) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    with pytest.raises(InstanceClosed):
        client.list_endpoints()
    assert get_client() is not client


def test_a_life_inside_is_lived() -> None:
    """It hears of its beginning and its end."""
    lived = []

    class Life:
        def __init__(self, app: Any) -> None:
            pass

        async def __aenter__(self) -> None:
            lived.append("begun")

        async def __aexit__(self, *_: object) -> None:
            lived.append("ended")

    sent = called(ServeBridge(Starlette(lifespan=Life), routes={}), LIFESPAN, LIFE)
    assert types_of(sent) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert lived == ["begun", "ended"]


def test_a_life_inside_that_fails_is_a_failure() -> None:
    """The server must not start."""

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise RuntimeError("no database")

    with pytest.raises(RuntimeError, match="no database"):
        called(ServeBridge(failing, routes={}), LIFESPAN, LIFE)


def test_an_unknown_scope_is_the_applications() -> None:
    """As Channels has some of its own."""
    seen = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    asyncio.run(ServeBridge(inner, routes=ROUTES)({"type": "channel"}, None, None))  # type: ignore[arg-type]
    assert seen == ["channel"]


def test_a_wrong_route_is_an_error_where_it_is_written() -> None:
    """With the nearest right key."""
    with pytest.raises(ConfigError, match="did you mean 'methods'"):
        ServeBridge(get_asgi_application(), routes={"/a": {"endpoint": "e", "method": "GET"}})
