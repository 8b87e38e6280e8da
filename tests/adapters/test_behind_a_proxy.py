"""An application behind a proxy that it trusts: backends see what the framework or server has concluded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import httpx
import pytest
from django.test import override_settings
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from websockets.sync.client import connect
from werkzeug.middleware.proxy_fix import ProxyFix

import serve_bridge as serve
from serve_bridge.adapters import Bridge, RouteSpec, load_adapter
from serve_bridge.testing.servers import serve_asgi, serve_wsgi

SAID = {"x-forwarded-for": "10.9.8.7", "x-forwarded-proto": "https", "x-forwarded-host": "shop.example"}
SETTINGS: dict[str, Any] = {
    "SECURE_PROXY_SSL_HEADER": ("HTTP_X_FORWARDED_PROTO", "https"),
    "USE_X_FORWARDED_HOST": True,
    "ALLOWED_HOSTS": ["shop.example"],
}


async def facts(request: Any) -> Any:
    """Tell where the request seems to come from."""
    client = request.client and request.client[0]
    if hasattr(request, "accept"):
        await request.accept()
        await request.send_json([request.url.scheme, request.url.hostname, client, list(request.headers)])
        return None
    return [request.url.scheme, request.url.hostname, client, list(request.headers)]


@pytest.fixture(scope="module")
def engine(nothing_left: None) -> Iterator[serve.Client]:
    """An instance with the backend."""
    client = serve.start(runtime="local", name="behind", http_options={"location": "NoServer"})
    client.create_backend("facts", facts)
    client.create_endpoint("facts", backend="facts")
    yield client
    client.shutdown()


def _fixed(app: Any) -> Any:
    return ProxyFix(app, x_for=1, x_proto=1, x_host=1)


def _believing(app: Any) -> Any:
    return ProxyHeadersMiddleware(app, "*")


TRUSTING: dict[str, tuple[Callable[[Any], Any], AbstractContextManager[Any], str, str]] = {
    "wsgi": (_fixed, nullcontext(), "shop.example", "10.9.8.7"),
    "flask": (_fixed, nullcontext(), "shop.example", "10.9.8.7"),
    "asgi": (_believing, nullcontext(), "127.0.0.1", "10.9.8.7"),
    "starlette": (_believing, nullcontext(), "127.0.0.1", "10.9.8.7"),
    "django": (lambda app: app, override_settings(**SETTINGS), "shop.example", "127.0.0.1"),
    "django-asgi": (lambda app: app, override_settings(**SETTINGS), "shop.example", "127.0.0.1"),
}
"""By adapter: what makes its application trust, and which host and client it concludes then."""


@contextmanager
def served(engine: serve.Client, name: str) -> Iterator[str]:
    """Return the base URL of an application of the adapter *name* that trusts its proxy."""
    adapter, bridge = load_adapter(name), Bridge(engine.address)
    trusting, settings, *_ = TRUSTING[name]
    server = serve_asgi if adapter.interface == "asgi" else serve_wsgi
    with settings, server(trusting(adapter.application(bridge, [RouteSpec("/facts", "facts")]))) as url:
        yield url
    bridge.close()


@pytest.mark.parametrize("name", TRUSTING)
def test_the_backend_sees_what_the_application_concludes(engine: serve.Client, name: str) -> None:
    """Scheme, host and client, without the headers that said so."""
    with served(engine, name) as url:
        scheme, host, client, headers = httpx.get(f"{url}/facts", headers=SAID, trust_env=False, timeout=30).json()
    assert (scheme, host, client) == ("https", *TRUSTING[name][2:])
    assert not SAID.keys() & set(headers)


@pytest.mark.parametrize("name", ["asgi", "starlette"])
def test_a_websocket_sees_what_the_application_concludes(engine: serve.Client, name: str) -> None:
    """As a request does."""
    with served(engine, name) as url:
        target = url.replace("http", "ws", 1) + "/facts"
        with connect(target, additional_headers=SAID, proxy=None) as websocket:
            scheme, host, client, headers = httpx.Response(200, content=websocket.recv()).json()
    assert (scheme, host, client) == ("wss", *TRUSTING[name][2:])
    assert not SAID.keys() & set(headers)
