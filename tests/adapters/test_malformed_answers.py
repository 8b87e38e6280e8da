"""Heads that a replica must not send: every front answers 502 with one line in the log, and goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import serve_bridge as serve
from serve_bridge.adapters import RouteSpec
from tests.adapters.support.all_fronts import FRONTS, front

MALFORMED: dict[str, tuple[int, list[tuple[str, str]]]] = {
    "a status below all": (0, []),
    "a negative status": (-1, []),
    "a status that is not final": (100, []),
    "a WebSocket's status": (101, []),
    "a status above all": (600, []),
    "a status of many digits": (2**40, []),
    "an empty name": (200, [("", "1")]),
    "a name with a space": (200, [("x own", "1")]),
    "a name with a line end": (200, [("x-own\r\nx-injected", "1")]),
    "a value with a line end": (200, [("x-own", "1\r\nx-injected: 1")]),
    "a value with NUL": (200, [("x-own", "\0")]),
    "two lengths": (200, [("content-length", "1"), ("content-length", "1")]),
    "a length that is not a number": (200, [("content-length", "one")]),
    "a negative length": (200, [("Content-Length", "-1")]),
    "a length of many digits": (200, [("content-length", "9" * 5000)]),
    "headers above the limit": (200, [("x-own", "a" * 70_000)]),
}


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answer with status and headers of the query, in one piece or streamed."""
    if scope["type"] != "http":
        return
    status, headers = MALFORMED[httpx.QueryParams(scope["query_string"])["case"]]
    sent = [(name.encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": sent})
    await send({"type": "http.response.body", "body": b"1", "more_body": True})
    await send({"type": "http.response.body", "body": b"2"})


async def trailing(scope: Any, receive: Any, send: Any) -> None:
    """Answer with a trailer that cannot be sent."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        await send({"type": "http.response.body", "body": b"body"})
        await send({"type": "http.response.trailers", "headers": [(b"x-own", b"1\r\nx-injected: 1")]})


async def alive(request: Any) -> str:
    """Answer."""
    return "alive"


@pytest.fixture(scope="module")
def malformed(nothing_left: None) -> Iterator[serve.Client]:
    """An instance whose replica checks nothing of what an application sends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serve_bridge.replica.response_sender.fit_head", lambda status, headers: (status, headers))
        patch.setattr("serve_bridge.replica.response_sender.fit_trailers", lambda headers: headers)
        client = serve.start(runtime="local", name="malformed", http_options={"port": 0})
        client.create_backend("malformed", serve.asgi_app(application))
        client.create_endpoint("malformed", backend="malformed", route="/malformed")
        client.create_backend("trailing", serve.asgi_app(trailing))
        client.create_endpoint("trailing", backend="trailing", route="/trailing")
        client.create_backend("alive", alive)
        client.create_endpoint("alive", backend="alive", route="/alive")
        yield client
        client.shutdown()


@pytest.fixture(scope="module", params=FRONTS)
def http(request: pytest.FixtureRequest, malformed: serve.Client) -> Iterator[httpx.Client]:
    """A client of each front in turn."""
    routes = [RouteSpec(f"/{name}", name, ("GET",)) for name in ("malformed", "alive")]
    with front(request.param, malformed, routes) as http:
        yield http


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_head_is_a_502(http: httpx.Client, case: str, caplog: pytest.LogCaptureFixture) -> None:
    """With the request's id, one short line in the log, and no traceback; the front goes on."""
    with caplog.at_level(logging.WARNING):
        answer = http.get("/malformed", params={"case": case})
        assert answer.status_code == 502
        assert "x-injected" not in answer.headers
        assert answer.headers["x-request-id"]
        assert http.get("/alive").text == "alive"
    logged = [each for each in caplog.records if each.name.startswith("serve_bridge.") and "502" not in each.msg]
    said = [each.getMessage() for each in logged if each.name != "serve_bridge.replica"]
    assert len(said) == 1
    assert len(said[0]) < 300
    assert not [each for each in caplog.records if each.exc_info and each.name != "serve_bridge.replica"]


def test_malformed_trailers_break_the_answer_off(malformed: serve.Client, caplog: pytest.LogCaptureFixture) -> None:
    """With one line in the log of the proxy, and no traceback."""
    with (
        caplog.at_level(logging.WARNING),
        httpx.Client(base_url=malformed.http_urls[0], trust_env=False, timeout=30) as http,
    ):
        with pytest.raises(httpx.RemoteProtocolError):
            http.get("/trailing", headers={"te": "trailers"})
        assert http.get("/alive").text == "alive"
    (logged,) = [each for each in caplog.records if each.name == "serve_bridge.proxy"]
    assert "has a control character" in logged.getMessage()
    assert logged.exc_info is None
