"""Mutated requests to a proxy with backends behind it: no 5xx of ours, nothing a strict client cannot read, no leak.

`FAULTS_SCALE` multiplies the number of examples.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import serve_bridge as serve
from serve_bridge.proxy.http_protocol import EdgeProtocol
from tests.edge_server import answers, read_all
from tests.waiting import wait_until, wait_until_equal

EXAMPLES = int(400 * float(os.environ.get("FAULTS_SCALE", "1")))
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
INSIDE = (b"Traceback", b'File "', b"serve_bridge", b"/tmp/", b".sock")

REQUESTS = [
    b"GET /any/path?a=b&c=%20 HTTP/1.1\r\nHost: example.com:80\r\nAccept: */*\r\nX-Request-Id: abc-1\r\n\r\n",
    b"GET /int/5 HTTP/1.0\r\nConnection: keep-alive\r\nCookie: a=b; c=d\r\n\r\n",
    b'POST /any HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"a": 1}\n',
    b"POST /data HTTP/1.1\r\nHost: a\r\nX-Serve-Call-Method: take\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n4;ext=1\r\n[1,2\r\n1\r\n]\r\n0\r\nX-Trailer: t\r\n\r\n",
    b"POST /form HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    b"Content-Length: 7\r\n\r\na=1&b=2",
    b"PUT /any HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://a/-/routes HTTP/1.1\r\nHost: a\r\nX-Serve-Timeout-S: 5\r\nForwarded: for=1.2.3.4\r\n\r\n",
]
SPLICES = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b";", b",", b"%", b"%2e%2e%2f", b"//", b"?", b"#", b"*", b"\xff",
    b"\xc3\xa4", b"0", b"-1", b"99999999999999999999", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n",
    b"Host: b\r\n", b"HTTP/1.1", b"HTTP/2.0", b"Connection: close\r\n", b"X-Serve-Shard-Key: \xe4\r\n", b"\r\n\r\n",
    b"X-Serve-Call-Method: __class__\r\n", b"A: " + b"b" * 9_000 + b"\r\n", b"a" * 70_000, b"[" * 5_000, b"_",
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Some requests on one connection, with a few bytes put in, taken out or exchanged."""
    data = b"".join(draw(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = start + draw(st.integers(0, 20))
        new = draw(st.one_of(st.sampled_from(SPLICES), st.binary(max_size=4), st.just(data[start:end] * 2)))
        data = data[:start] + new + data[end if draw(st.booleans()) else start :]
    return data


async def anything(request: Any) -> dict[str, Any]:
    """Take all that the request has."""
    body = await request.body()
    return {"query": request.query_params.multi_items(), "cookies": request.cookies, "body": len(body)}


async def form(request: Any) -> int:
    """Read a form."""
    async with request.form() as fields:
        return len(fields)


class Data:
    """A method that takes data, which the engine parses."""

    def __call__(self, request: Any) -> str:
        """Be the default."""
        return "called"

    def take(self, data: Any = None) -> str:
        """Say what came."""
        return ascii(data)


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    """A proxy that drops slow clients soon."""
    options = {"port": 0, "header_timeout_s": 2, "body_timeout_s": 2}
    client = serve.start(runtime="local", name="edge-fuzz", http_options=options)
    for code in (anything, form, Data):
        client.create_backend(code.__name__, code)
    routes = {"/form": "form", "/data": "Data", "/int/{n:int}": "anything", "/{rest:path}": "anything"}
    for number, (route, backend) in enumerate(routes.items()):
        client.create_endpoint(f"e{number}", backend=backend, route=route, methods=["GET", "POST", "PUT"])
    host, _, port = client.http_urls[0].removeprefix("http://").rpartition(":")
    yield host, int(port)
    client.shutdown()


def left() -> tuple[int, int, int]:
    """Descriptors, connections and unfinished tasks of this process, in which the proxy is a thread."""
    gc.collect()
    found = gc.get_objects()
    # By `type`: `isinstance` asks an object itself, and some, Django's lazy ones, do work to answer.
    connections = sum(issubclass(type(each), EdgeProtocol) for each in found)
    tasks = sum(not each.done() for each in found if issubclass(type(each), asyncio.Task))
    return psutil.Process().num_fds(), connections, tasks


def exchange(address: tuple[str, int], data: bytes) -> bytes:
    """Send bytes, end one's own side, and read until the proxy closes."""
    with socket.create_connection(address) as client:
        client.settimeout(20)
        with contextlib.suppress(ConnectionError):  # it may refuse before it has read everything
            client.sendall(data)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_WR)
        return read_all(client)


@pytest.fixture
def nothing_left(address: tuple[str, int], caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What a test does leaves nothing behind in the proxy."""
    caplog.set_level("CRITICAL", "serve_bridge.proxy")  # a record that is kept keeps the request that it is about
    for request in REQUESTS:  # each opens what the proxy keeps to a replica
        exchange(address, request)
    wait_until_equal(lambda: left()[1], 0)
    before = left()
    yield
    assert [answer.status for answer in answers(exchange(address, REQUESTS[0]))] == [200]
    wait_until(lambda: all(now <= then for now, then in zip(left(), before, strict=True)))


@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # it would hide the failure
@pytest.mark.filterwarnings("ignore:Do not use the .random. module")  # the proxy's thread does, not the strategy
@pytest.mark.usefixtures("nothing_left")
def test_no_bytes_break_the_proxy(address: tuple[str, int]) -> None:
    """P29: 2xx, 3xx, 4xx, 501, 505 or the end of the connection."""

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(mutated())
    @example(b"".join(REQUESTS))
    def each(data: bytes) -> None:
        received = exchange(address, data)
        for answer in answers(received.removesuffix(CONTINUE)):  # after which the rest of the body did not come
            assert 200 <= answer.status < 500 or answer.status in (501, 505), answer
        assert not any(word in received for word in INSIDE)

    each()
