"""A handle of an adapter has the time of the adapter's forwarded requests, in each framework."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from django.test import override_settings
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from flask import Flask

import serve_bridge as serve
from serve_bridge.adapters import django, flask
from serve_bridge.adapters.asgi import application as asgi
from serve_bridge.adapters.starlette import extension as starlette
from serve_bridge.adapters.wsgi import application as wsgi
from serve_bridge.client.handle import Handle
from serve_bridge.errors import DeadlineExceeded

SHORT_S = 0.3


async def slow(request: Any) -> str:
    """Take as many seconds as the call says."""
    await asyncio.sleep(request.data)
    return "slow"


@pytest.fixture(scope="module")
def address(engine: serve.Client) -> str:
    """Where an instance with a slow endpoint is."""
    engine.create_backend("slow", slow)
    engine.create_endpoint("slow", backend="slow")
    return engine.address


def _of_asgi(address: str, call: Callable[[Handle], Any]) -> Any:
    bridge = asgi.ServeBridge(address, timeout_s=SHORT_S)
    try:
        return call(bridge.get_handle("slow"))
    finally:
        bridge.close()


def _of_wsgi(address: str, call: Callable[[Handle], Any]) -> Any:
    bridge = wsgi.ServeBridge(address, timeout_s=SHORT_S)
    try:
        return call(bridge.get_handle("slow"))
    finally:
        bridge.close()


def _of_flask(address: str, call: Callable[[Handle], Any]) -> Any:
    app = Flask(__name__)
    app.config.update(SERVE_BRIDGE_ADDRESS=address, SERVE_BRIDGE_TIMEOUT_S=SHORT_S)
    bridge = flask.ServeBridge(app)
    try:
        with app.app_context():
            return call(bridge.get_handle("slow"))
    finally:
        app.extensions["serve_bridge"].close()


def _of_django(address: str, call: Callable[[Handle], Any]) -> Any:
    with override_settings(SERVE_BRIDGE={"ADDRESS": address, "TIMEOUT_S": SHORT_S}):
        return call(django.get_handle("slow"))


def _of_fastapi(address: str, call: Callable[[Handle], Any]) -> Any:
    bridge = starlette.ServeBridge(address, timeout_s=SHORT_S)
    app = FastAPI(lifespan=bridge.lifespan)

    @app.get("/")
    def view(handle: Annotated[Handle, Depends(starlette.get_handle("slow"))]) -> str:
        return str(call(handle))

    with TestClient(app) as http:
        return http.get("/").json()


FRAMEWORKS = [_of_asgi, _of_wsgi, _of_flask, _of_django, _of_fastapi]


@pytest.mark.parametrize("of", FRAMEWORKS)
def test_a_call_ends_with_the_adapters_time(address: str, of: Callable[..., Any]) -> None:
    """And not after the 60 s of a handle that no adapter made."""
    with pytest.raises(DeadlineExceeded):
        of(address, lambda handle: handle.call(30))


@pytest.mark.parametrize("of", FRAMEWORKS)
def test_a_call_may_have_another_time(address: str, of: Callable[..., Any]) -> None:
    """That of its options."""
    assert of(address, lambda handle: handle.options(timeout_s=60).call(2 * SHORT_S)) == "slow"
