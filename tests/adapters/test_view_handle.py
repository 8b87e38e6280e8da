"""Handles of ASGI bridges: each error is of its own type, and a framework answers it with 503."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocket

import serve_bridge as serve
from serve_bridge.adapters.asgi.application import ServeBridge
from serve_bridge.client.handle import Handle
from serve_bridge.errors import EndpointNotFound, InstanceClosed, NotConnected


@pytest.fixture
def bridge(engine: serve.Client) -> Iterator[ServeBridge]:
    """A bridge to an instance that has no endpoint of the name that is asked for."""
    bridge = ServeBridge(engine.address)
    yield bridge
    bridge.close()


def called(handle: Any) -> Any:
    """Call in a thread."""
    return handle.call()


def awaited(handle: Any) -> Any:
    """Call on a loop."""
    return asyncio.run(handle.acall())


def streamed(handle: Any) -> Any:
    """Iterate in a thread."""
    return list(handle.stream())


def awaited_stream(handle: Any) -> Any:
    """Iterate on a loop."""

    async def main() -> Any:
        return [item async for item in handle.astream()]

    return asyncio.run(main())


@pytest.mark.parametrize("way", [called, awaited, streamed, awaited_stream])
@pytest.mark.parametrize("changed", [False, True])
def test_a_missing_endpoint_is_both_errors(bridge: ServeBridge, way: Callable[[Any], Any], changed: bool) -> None:
    """A view may catch it, and Starlette answers it otherwise; a handle with other options does the same."""
    handle = bridge.get_handle("nowhere")
    with pytest.raises(EndpointNotFound, match="no endpoint 'nowhere'") as caught:
        way(handle.options(timeout_s=5) if changed else handle)
    error: Any = caught.value
    assert isinstance(error, HTTPException)
    assert (error.status_code, error.endpoint, dict(error.headers or {})["retry-after"]) == (503, "nowhere", "1")
    assert "nowhere" not in error.detail


def test_a_missing_instance_is_both_errors(tmp_path: Any) -> None:
    """Already where the handle is made."""
    with pytest.raises(NotConnected) as caught:
        ServeBridge(str(tmp_path / "none.json")).get_handle("any")
    assert isinstance(caught.value, HTTPException)


def test_a_closed_client_is_both_errors(bridge: ServeBridge) -> None:
    """A handle that outlives its bridge."""
    handle = bridge.get_handle("echo")
    bridge.close()
    with pytest.raises(InstanceClosed) as caught:
        handle.call()
    assert isinstance(caught.value, HTTPException)


def test_elsewhere_handle_and_error_are_the_engines_own(bridge: ServeBridge) -> None:
    """A process that is no web application has nobody who answers."""
    handle = bridge.get_handle("nowhere")
    assert type(pickle.loads(pickle.dumps(handle))) is Handle
    with pytest.raises(EndpointNotFound) as caught:
        handle.call()
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), copy.args) == (EndpointNotFound, caught.value.args)


def test_a_websocket_whose_view_does_not_catch_it_is_denied(bridge: ServeBridge) -> None:
    """With 503, before it is open."""

    async def view(websocket: WebSocket) -> None:
        await bridge.get_handle("nowhere").acall()

    with (
        TestClient(Starlette(routes=[WebSocketRoute("/x", view)])) as client,
        pytest.raises(WebSocketDenialResponse) as denied,
        client.websocket_connect("/x"),
    ):
        pass
    assert (denied.value.status_code, denied.value.headers["retry-after"]) == (503, "1")


def failing(error: Exception, *, answers: bool) -> Callable[..., Awaitable[None]]:
    """Return an ASGI application that raises, perhaps after it has begun to answer."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if answers:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise error

    return app


def test_a_middleware_answers_for_a_framework_that_raises(bridge: ServeBridge) -> None:
    """Once the framework has begun to answer, the error is the server's."""
    middleware = ServeBridge(bridge.client.address, routes={"/x": "echo"}).middleware
    client = TestClient(middleware(failing(EndpointNotFound("nowhere"), answers=False)))
    answer = client.get("/own")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    with pytest.raises(EndpointNotFound):
        TestClient(middleware(failing(EndpointNotFound("nowhere"), answers=True))).get("/own")
