"""A proxy that does not answer its controller: one whose loop works is busy, one whose loop stands still is ended.

Rule 1: each instance runs in a process of its own. Its controller is impatient, and a loop that works takes time from
    all threads of its process, so both would harm the proxies of other tests.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import time
from collections.abc import Callable

import httpx
import pytest
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

import serve_bridge as serve
from serve_bridge.controller import proxies, proxy_probes
from tests.support.programs import ROOT
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

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


def run_instance(hold: Callable[[], None]) -> None:
    """Hold up the loop of a proxy. Print the status of the answer to that request, once the proxy serves again."""
    logging.basicConfig(format="%(name)s: %(message)s")
    setattr(proxies, "WATCH_S", proxies.WATCH_S / 5)  # noqa: B010
    for name in ("USED_TIMEOUT_S", "LOOK_AFTER_SILENCE_S", "END_AFTER_SILENCE_S", "END_BUSY_AFTER_SILENCE_S"):
        setattr(proxy_probes, name, getattr(proxy_probes, name) / 5)
    client = serve.start(
        runtime="local", name="busy", http_options={"port": 0, "middlewares": [Middleware(Holding, hold)]}
    )
    try:
        with httpx.Client(base_url=client.http_urls[0], trust_env=False, timeout=30) as http:
            with contextlib.suppress(httpx.TransportError):
                sys.stdout.write(str(http.get("/hold").status_code))
            wait_until(lambda: is_live(http))
    finally:
        client.shutdown()


def logged_by(hold: Callable[[], None]) -> tuple[str, str]:
    """Run an instance; return what it has printed and logged."""
    command = [sys.executable, "-m", "tests.local.controller.test_busy_proxy", hold.__name__]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=100)
    return ran.stdout.strip(), ran.stderr


def is_live(http: httpx.Client) -> bool:
    """Return whether the proxy answers."""
    try:
        return http.get("/-/live").status_code == 200
    except httpx.TransportError:
        return False


def test_a_proxy_that_is_busy_is_left_alone() -> None:
    """Its connections stay, and the request that kept it busy is answered."""
    printed, logged = logged_by(work)
    assert printed == "404"
    assert "is busy" in logged
    assert "died" not in logged


def test_a_proxy_that_stands_still_is_ended() -> None:
    """Another one takes its port, as soon as that is free."""
    _, logged = logged_by(sleep)
    assert "has not answered" in logged
    assert "died" in logged


if __name__ == "__main__":
    run_instance({"work": work, "sleep": sleep}[sys.argv[1]])
