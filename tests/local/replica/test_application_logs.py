"""What the log of a replica says of applications; with the local runtime it is this process's."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import serve_bridge as serve
from tests.behaviour.support import applications
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    """A client of an instance with the applications that make mistakes."""
    client = serve.start(runtime="local", name="applications-log", http_options={"port": 0})
    for name, app in (
        ("asgi", serve.asgi_app(applications.mistaken)),
        ("wsgi", serve.wsgi_app(applications.wsgi_mistaken)),
        ("long", serve.wsgi_app(applications.overlong)),
    ):
        client.create_backend(name, app)
        client.create_endpoint(name, backend=name, route=f"/{name}")
    with httpx.Client(base_url=client.http_urls[0], trust_env=False, timeout=30) as http:
        yield http
    client.shutdown()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/asgi/silent", "returned without 'http.response.start'"),
        ("/asgi/only-start", "returned without 'http.response.body'"),
        ("/asgi/body-first", "unexpected ASGI message 'http.response.body'"),
        ("/asgi/two-starts", "unexpected ASGI message 'http.response.start'"),
        ("/asgi/after-end", "the answer is complete"),
        ("/asgi/unknown", "unexpected ASGI message 'http.response.nonsense'"),
        ("/asgi/broken-off", "returned without 'http.response.body'"),
        ("/asgi/result", "returned str where None is expected"),
        ("/asgi/raises-late", "ValueError: secret"),
        ("/wsgi/silent", "without calling start_response"),
        ("/wsgi/short", "2 bytes where Content-Length says 4"),
        ("/wsgi/two-starts", "Headers already set"),
        ("/wsgi/raises-closing", "ValueError: secret"),
        ("/wsgi/raises-reset", "ConnectionResetError: of a database"),
        ("/long", "longer than its Content-Length"),
    ],
)
def test_a_mistake_is_named_in_the_log(
    http: httpx.Client, caplog: pytest.LogCaptureFixture, path: str, reason: str
) -> None:
    """Whatever the client was told."""
    with caplog.at_level(logging.WARNING, "serve_bridge.replica"):
        with contextlib.suppress(httpx.RemoteProtocolError):  # it was broken off
            http.get(path)
        wait_until(lambda: reason in caplog.text)


@pytest.mark.parametrize(
    ("failure", "reason"), [(None, "it did not end in time"), ("no", "the application's shutdown failed: no")]
)
def test_a_failing_shutdown_is_logged(caplog: pytest.LogCaptureFixture, failure: str | None, reason: str) -> None:
    """And does not keep the replica."""
    client = serve.start(runtime="local", name="applications-end", http_options={"location": "NoServer"})
    client.create_backend("app", serve.asgi_app(Ending(failure)))
    with caplog.at_level(logging.WARNING, "serve_bridge.replica"):
        client.delete_backend("app")
    client.shutdown()
    assert reason in caplog.text


class Ending:
    """An application that does not end well."""

    def __init__(self, failure: str | None) -> None:
        self._failure = failure

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Live."""
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if self._failure is None:
            raise ValueError("no end")
        await send({"type": "lifespan.shutdown.failed", "message": self._failure})
