"""Failures of a backend after its answer has begun: the log has the reason, whichever adapter forwards the request."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse

import serve_bridge as serve
from serve_bridge.adapters import RouteSpec
from tests.adapters.support.all_fronts import FRONTS, front
from tests.support.waiting import wait_until

NAMES = ("late-background", "late-stream")


def _fail() -> None:
    raise LookupError("the reason")


def background(request: Any) -> Any:
    """Answer, and fail in a background task."""
    return PlainTextResponse("whole", background=BackgroundTask(_fail))


def stream(request: Any) -> Iterator[bytes]:
    """Answer a part, and fail."""
    yield b"a part"
    _fail()


@pytest.fixture(scope="module")
def routes(engine: serve.Client) -> Iterator[list[RouteSpec]]:
    """The routes of both backends, which the proxy has too."""
    for name, code in zip(NAMES, (background, stream), strict=True):
        engine.create_backend(name, code)
        engine.create_endpoint(name, backend=name, route=f"/{name}")
    yield [RouteSpec(f"/{name}", name, ("GET",)) for name in NAMES]
    for name in NAMES:
        engine.delete_endpoint(name)
        engine.delete_backend(name)


@pytest.mark.parametrize("name", FRONTS)
@pytest.mark.parametrize("path", NAMES)
def test_the_log_has_the_reason_once(
    engine: serve.Client, routes: list[RouteSpec], caplog: pytest.LogCaptureFixture, name: str, path: str
) -> None:
    """It is an error if no server reports the answer as broken."""

    def reasons() -> list[int]:
        records = [record for record in caplog.records if record.name == "serve_bridge.replica"]
        return [record.levelno for record in records if record.exc_info and "the reason" in str(record.exc_info[1])]

    with caplog.at_level(logging.INFO), front(name, engine, routes) as http:
        try:
            http.get(f"/{path}")
        except httpx.TransportError:
            assert path == "late-stream"
        wait_until(lambda: bool(reasons()))
    told = name != "proxy" and path == "late-stream"
    assert reasons() == [logging.WARNING if told else logging.ERROR]
