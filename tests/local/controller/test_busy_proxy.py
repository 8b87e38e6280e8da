"""A proxy that does not answer its controller: one whose loop works is busy, one whose loop stands still is ended."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable

import httpx
import pytest
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

import serve_bridge as serve
from serve_bridge.controller import proxies, proxy_probes
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

_numbers = itertools.count()
HELD_S = 4.0
"""How long the loop answers nothing: twice as long as the controller waits for a proxy that stands still."""


def work() -> None:
    """Use the processor."""
    until = time.monotonic() + HELD_S
    while time.monotonic() < until:
        sum(range(1000))


def sleep() -> None:
    """Use nothing."""
    time.sleep(HELD_S)


class Holding:
    """Holds up the loop of the proxy, for a request to `/hold`."""

    def __init__(self, app: ASGIApp, hold: Callable[[], None]) -> None:
        self._app = app
        self._hold = hold

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, after a while."""
        if scope["path"] == "/hold":
            self._hold()
        await self._app(scope, receive, send)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A controller that waits a fifth as long as it does."""
    monkeypatch.setattr(proxies, "WATCH_S", proxies.WATCH_S / 5)
    for name in ("USED_TIMEOUT_S", "LOOK_AFTER_SILENCE_S", "END_AFTER_SILENCE_S", "END_BUSY_AFTER_SILENCE_S"):
        monkeypatch.setattr(proxy_probes, name, getattr(proxy_probes, name) / 5)


def status_after(hold: Callable[[], None]) -> int | None:
    """Hold up the loop of a proxy; return the status of the answer to that request, once the proxy serves again."""
    options = {"port": 0, "middlewares": [Middleware(Holding, hold)]}
    client = serve.start(runtime="local", name=f"busy-{next(_numbers)}", http_options=options)
    try:
        with httpx.Client(base_url=client.http_urls[0], trust_env=False, timeout=30) as http:
            status = None
            with contextlib.suppress(httpx.TransportError):
                status = http.get("/hold").status_code
            wait_until(lambda: is_live(http))
        return status
    finally:
        client.shutdown()


def is_live(http: httpx.Client) -> bool:
    """Return whether the proxy answers."""
    try:
        return http.get("/-/live").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.usefixtures("impatient")
def test_a_proxy_that_is_busy_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Its connections stay, and the request that kept it busy is answered."""
    assert status_after(work) == 404
    messages = [record.getMessage() for record in caplog.records if record.name == "serve_bridge.controller"]
    assert [message for message in messages if "is busy" in message]
    assert not [message for message in messages if "died" in message]


@pytest.mark.usefixtures("impatient")
def test_a_proxy_that_stands_still_is_ended(caplog: pytest.LogCaptureFixture) -> None:
    """Another one takes its port, as soon as that is free."""
    status_after(sleep)
    messages = [record.getMessage() for record in caplog.records if record.name == "serve_bridge.controller"]
    assert [message for message in messages if "has not answered" in message]
    assert [message for message in messages if "died" in message]
