"""The contract, over every adapter of ours and the proxy, on both runtimes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import serve_bridge as serve
from serve_bridge.testing import AdapterContract, FrontContract
from serve_bridge.testing.contract import deploy_subject
from tests.adapters.own_adapters import ASGIAdapter, StarletteAdapter, FlaskAdapter, FastAPIAdapter


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
    """The generic ASGI application."""

    adapter = ASGIAdapter()


class TestStarlette(AdapterContract):
    """Starlette."""

    adapter = StarletteAdapter()


class TestFastAPI(AdapterContract):
    """FastAPI."""

    adapter = FastAPIAdapter()


class TestFlask(AdapterContract):
    """Flask."""

    adapter = FlaskAdapter()
    request_method = "request.method"
