"""The contract, over every adapter of ours and the proxy, on both runtimes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import pytest
from fastapi import FastAPI

import serve_bridge as serve
from serve_bridge.adapters import Bridge, RouteSpec, load_adapter
from serve_bridge.testing import AdapterContract, FrontContract
from serve_bridge.testing.contract import deploy_subject

SPOOLED = "Django has received all of a body before it calls a view"


@pytest.fixture(scope="module")
def serve_bridge_contract(client: serve.Client) -> serve.Client:
    """The module's instance, of each runtime in turn."""
    deploy_subject(client)
    return client


class TestProxy(FrontContract):
    """The standalone proxy, whose routes have no options."""

    @classmethod
    @contextmanager
    def front(cls, client: serve.Client) -> Iterator[str]:
        """Yield the base URL of the instance's own."""
        yield client.http_urls[0]


class TestASGI(AdapterContract):
    """Any ASGI framework."""

    adapter = load_adapter("asgi")


class TestWSGI(AdapterContract):
    """Any WSGI framework."""

    adapter = load_adapter("wsgi")
    request_method = "environ.REQUEST_METHOD"


class TestStarlette(AdapterContract):
    """Starlette."""

    adapter = load_adapter("starlette")


class _FastAPIAdapter:
    name = "fastapi"
    interface: Literal["asgi"] = "asgi"

    def application(self, bridge: Bridge, routes: Sequence[RouteSpec]) -> FastAPI:
        """Return an application with the routes that Starlette's would have."""
        app = FastAPI()
        starlette: Any = load_adapter("starlette").application(bridge, routes)
        app.router.routes.extend(starlette.routes)
        return app


class TestFastAPI(AdapterContract):
    """FastAPI, whose middleware and error handlers are its own."""

    adapter = _FastAPIAdapter()


class TestFlask(AdapterContract):
    """Flask."""

    adapter = load_adapter("flask")
    request_method = "request.method"


class TestDjango(AdapterContract):
    """Django under WSGI."""

    adapter = load_adapter("django")


class TestAsyncDjango(AdapterContract):
    """Django under ASGI."""

    adapter = load_adapter("django-asgi")
    lacks: ClassVar[Mapping[str, str]] = {
        "streamed uploads": SPOOLED,
        "duplex": SPOOLED,
        "early answers": SPOOLED,
        "websockets": "Django answers HTTP only; serve_bridge.adapters.django.asgi wraps it for more",
    }
