"""A proxy whose loop is busy for longer than the controller waits for one that is dead."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

import serve_bridge as serve
from serve_bridge.controller.proxies import WATCH_S
from serve_bridge.controller.proxy_probes import END_AFTER_SILENCE_S
from tests.faults.conftest import actors
from tests.support.raw_websocket import TEXT, RawWebSocket, frame
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.faults]

BUSY_S: Final = END_AFTER_SILENCE_S + 2 * WATCH_S


class Working:
    """Uses the processor for a request to `/work`, and answers nothing else meanwhile."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, after a while."""
        if scope["path"] == "/work":
            until = time.monotonic() + BUSY_S
            while time.monotonic() < until:
                sum(range(1000))
        await self._app(scope, receive, send)


async def echo(websocket: Any) -> None:
    """Send back what comes."""
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


@pytest.fixture
def instance(ray_cluster: Any) -> Iterator[serve.Client]:
    """An instance on Ray whose proxy can be kept busy."""
    client = serve.start(name="busy", http_options={"port": 0, "middlewares": [Middleware(Working)]})
    yield client
    client.shutdown()
    wait_until(lambda: not actors())


def test_a_busy_proxy_keeps_its_connections(instance: serve.Client) -> None:
    """The controller sees that its loop makes progress, so neither process nor connections change."""
    instance.create_backend("echo", echo)
    instance.create_endpoint("echo", backend="echo", route="/echo")
    url = urlsplit(instance.http_urls[0])
    before = [process.pid for process in actors("Proxy")]
    with RawWebSocket((url.hostname or "", url.port or 0)) as client:
        client.open("/echo")
        assert httpx.get(f"{instance.http_urls[0]}/work", trust_env=False, timeout=60).status_code == 404
        client.send(frame(TEXT, b"still here"))
        assert client.frame() == (TEXT, b"still here")
    assert [process.pid for process in actors("Proxy")] == before
