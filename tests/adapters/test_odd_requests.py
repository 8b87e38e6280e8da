"""Requests that servers pass on as odd as clients send them: a backend sees what a view of the framework would see."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import serve_bridge as serve
from serve_bridge.adapters import RouteSpec
from tests.adapters.support.all_fronts import front
from tests.support.runtimes import LOCAL_ONLY

pytestmark = LOCAL_ONLY


async def seen(request: Any) -> Any:
    """Return the query, parsed and as text."""
    return {"query": request.query_params.multi_items(), "url": request.url.query}


@pytest.fixture(scope="module", params=["wsgi", "flask", "django"])
def http(request: pytest.FixtureRequest, engine: serve.Client) -> Iterator[httpx.Client]:
    """A client of an application of each WSGI adapter, with the route `/seen`."""
    engine.create_backend("seen", seen)
    engine.create_endpoint("seen", backend="seen")
    try:
        with front(request.param, engine, [RouteSpec("/seen", "seen", ("GET",))]) as http:
            yield http
    finally:
        engine.delete_endpoint("seen")
        engine.delete_backend("seen")


def exchange(http: httpx.Client, line: bytes) -> tuple[int, Any]:
    """Send a request with *line*, which httpx would not send, and return the status and the body of the answer."""
    with socket.create_connection((http.base_url.host, http.base_url.port or 80)) as client:
        client.sendall(line + b"\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        raw = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.parametrize(
    ("query", "value", "encoded"),
    [
        ("é=ü".encode(), [["é", "ü"]], "%C3%A9=%C3%BC"),
        (b"a=\xe9;b&c=%zz", [["a", "\ufffd;b"], ["c", "%zz"]], "a=%E9;b&c=%zz"),
    ],
)
def test_a_raw_query_is_percent_encoded(http: httpx.Client, query: bytes, value: Any, encoded: str) -> None:
    """Curl and old browsers send UTF-8 as it is. The proxy encodes such bytes too."""
    status, body = exchange(http, b"GET /seen?%b HTTP/1.1" % query)
    assert status == 200
    answer = httpx.Response(200, content=body).json()
    assert (answer["query"], answer["url"]) == (value, encoded)
