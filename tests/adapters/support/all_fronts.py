"""The proxy and an application of every adapter, each behind a real server, for the same routes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import httpx

import serve_bridge as serve
from serve_bridge.adapters import Bridge, RouteSpec, load_adapter
from serve_bridge.testing.servers import serve_asgi, serve_wsgi

ADAPTERS: Final = ("asgi", "wsgi", "starlette", "flask", "django", "django-asgi")
FRONTS: Final = ("proxy", *ADAPTERS)


@contextmanager
def front(name: str, client: serve.Client, routes: Sequence[RouteSpec]) -> Iterator[httpx.Client]:
    """Return an HTTP client of the front *name*, which forwards *routes*; the proxy has those of the instance."""
    with httpx.Client(trust_env=False, timeout=15) as http:
        if name == "proxy":
            http.base_url = httpx.URL(client.http_urls[0])
            yield http
            return
        adapter, bridge = load_adapter(name), Bridge(client.address)
        served = serve_asgi if adapter.interface == "asgi" else serve_wsgi
        try:
            with served(adapter.application(bridge, routes)) as url:
                http.base_url = httpx.URL(url)
                yield http
        finally:
            bridge.close()
