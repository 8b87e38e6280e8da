"""Requests that the edge does not serve: through the middlewares where they can be read, counted, and logged."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

import serve_bridge as serve
from serve_bridge.cli import verbs as commands
from serve_bridge.http_server.buffers import Buffers
from tests.support.edge_server import Answer, Running, answers, read_all, running
from tests.support.websocket_proxy import echo

HEAD = b"Host: localhost\r\nOrigin: http://localhost:3000\r\n"
GET = b"GET /x HTTP/1.1\r\n" + HEAD
POST = b"POST /read HTTP/1.1\r\n" + HEAD
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
HANDSHAKE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


class Stamp:
    """Marks every answer, of WebSockets too, and remembers the statuses."""

    statuses: list[int]

    def __init__(self, app: ASGIApp, statuses: list[int]) -> None:
        self.app = app
        self.statuses = statuses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, with a mark."""

        async def mark(message: Message) -> None:
            if message["type"].endswith("response.start"):
                self.statuses.append(message["status"])
                message = {**message, "headers": [*message["headers"], (b"x-stamp", b"yes")]}
            await send(message)

        await self.app(scope, receive, mark)


STATUSES: list[int] = []
MIDDLEWARES = [Middleware(CORSMiddleware, allow_origins=["*"]), Middleware(Stamp, statuses=STATUSES)]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """A server on a loopback address, with middlewares."""
    with running(allowed_hosts=None, max_body_bytes=1000, middlewares=MIDDLEWARES) as server:
        yield server


@pytest.fixture
def edge(server: Running) -> Running:
    """The server, without memories."""
    server.app.paths.clear()
    STATUSES.clear()
    return server


def problem_of(answer: Answer) -> dict[str, Any]:
    """The document of a refusal, whose form is the same for all."""
    document: dict[str, Any] = json.loads(answer.body)
    assert answer.headers[b"content-type"] == b"application/problem+json"
    assert answer.headers[b"connection"] == b"close"
    assert b"date" in answer.headers
    assert list(document) == ["type", "title", "status", "detail", "request_id"]
    assert document["status"] == answer.status
    assert document["request_id"] == answer.headers[b"x-request-id"].decode()
    return document


READABLE: dict[str, tuple[bytes, int]] = {
    "a length above the limit": (POST + b"Content-Length: 1001\r\n\r\n" + b"x" * 1001, 413),
    "a length above the limit, asked for first": (POST + b"Content-Length: 1001\r\nExpect: 100-continue\r\n\r\n", 413),
    "chunks above the limit": (CHUNKED + b"3e9\r\n" + b"x" * 1001, 413),
    "another expectation": (POST + b"Content-Length: 1\r\nExpect: 200-maybe\r\n\r\nx", 417),
    "another host": (GET.replace(b"localhost\r", b"evil.example\r") + b"\r\n", 421),
    "another host, absolute": (
        GET.replace(b"/x", b"http://evil.example/x").replace(b"localhost\r", b"evil.example\r") + b"\r\n",
        421,
    ),
    "a malformed chunk": (CHUNKED + b"zz\r\n", 400),
    "a WebSocket of another version": (GET + HANDSHAKE.replace(b"13", b"12") + b"\r\n", 426),
    "a WebSocket without a key": (GET + HANDSHAKE.replace(b"-Key", b"-Other") + b"\r\n", 400),
    "a WebSocket with a body": (GET + HANDSHAKE + b"Content-Length: 1\r\n\r\nx", 400),
    "a WebSocket by POST": (POST + HANDSHAKE + b"Content-Length: 1\r\n\r\nx", 400),
    "too many trailers": (CHUNKED + b"0\r\n" + b"X-A: b\r\n" * 200 + b"\r\n", 431),
}


@pytest.mark.parametrize(("sent", "status"), READABLE.values(), ids=READABLE)
def test_the_refusal_of_a_readable_request_goes_through_the_middlewares(
    edge: Running, sent: bytes, status: int
) -> None:
    """A page of another origin may read it, and what follows on the connection is never served."""
    (answer,) = answers(edge.exchange(sent + b"GET /last HTTP/1.1\r\n" + HEAD + b"\r\n"))
    assert answer.status == status
    problem_of(answer)
    assert answer.headers[b"access-control-allow-origin"] == b"*"
    assert answer.headers[b"x-stamp"] == b"yes"
    assert [status] == STATUSES
    assert "/last" not in edge.app.paths


def test_the_answer_about_the_server_goes_through_the_middlewares(edge: Running) -> None:
    """As every answer; no route is asked."""
    (answer,) = answers(edge.exchange(b"OPTIONS * HTTP/1.1\r\n" + HEAD + b"Connection: close\r\n\r\n"))
    assert (answer.status, answer.headers[b"access-control-allow-origin"]) == (204, b"*")
    assert STATUSES == [204]
    assert edge.app.paths == []


UNREADABLE: dict[str, tuple[bytes, int]] = {
    "no host": (b"GET /x HTTP/1.1\r\n\r\n", 400),
    "a malformed line": (b"GET  /x HTTP/1.1\r\n" + HEAD + b"\r\n", 400),
    "a malformed header": (GET + b"A : b\r\n\r\n", 400),
    "a long line": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HEAD + b"\r\n", 414),
    "large headers": (GET + b"A: " + b"b" * 70_000 + b"\r\n\r\n", 431),
    "two framings": (POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
}


@pytest.mark.parametrize(("sent", "status"), UNREADABLE.values(), ids=UNREADABLE)
def test_bytes_that_are_not_a_request_are_refused_outside_the_middlewares(
    edge: Running, sent: bytes, status: int
) -> None:
    """There is no scope for them; the document is the same."""
    (answer,) = answers(edge.exchange(sent))
    assert answer.status == status
    problem_of(answer)
    assert STATUSES == []


def test_a_handshake_with_malformed_extensions_is_counted(edge: Running) -> None:
    """The client gets the same document with an id, outside of the middlewares."""
    counts = edge.server._state.refusals.counts
    before = counts[400]
    (answer,) = answers(edge.exchange(GET + HANDSHAKE + b"Sec-WebSocket-Extensions: ;;\r\n\r\n"))
    assert "Sec-WebSocket-Extensions" in problem_of(answer)["detail"]
    assert counts[400] == before + 1


def test_a_body_for_which_there_is_no_room_is_refused_through_the_middlewares() -> None:
    """The client may try again soon."""
    buffers = Buffers(1 << 20, logging.getLogger("serve_bridge.proxy"))
    with running(buffers=buffers, middlewares=MIDDLEWARES) as edge:
        buffers.held = 1 << 20
        (answer,) = answers(edge.exchange(POST + b"Content-Length: 1\r\n\r\nx"))
        buffers.held = 0
    assert (answer.status, answer.headers[b"access-control-allow-origin"]) == (503, b"*")
    assert (answer.headers[b"retry-after"], answer.headers[b"x-serve-executed"]) == (b"1", b"no")
    assert problem_of(answer)["title"] == "Service Unavailable"


def test_a_refusal_has_the_id_of_the_client(edge: Running) -> None:
    """As every answer has, if the id is a valid one."""
    (answer,) = answers(edge.exchange(POST + b"X-Request-Id: mine-1\r\nContent-Length: 1001\r\n\r\n"))
    assert problem_of(answer)["request_id"] == "mine-1"


def test_a_body_that_grows_too_large_ends_the_call_that_reads_it(edge: Running) -> None:
    """The application is told that its client has left, and what it answers then is dropped."""
    edge.app.left.clear()
    (answer,) = answers(edge.exchange(CHUNKED + b"a\r\n" + b"x" * 10 + b"\r\n3e8\r\n" + b"x" * 1000 + b"\r\n0\r\n\r\n"))
    assert answer.status == 413
    assert edge.app.left.wait(30)


def test_the_rest_of_a_body_whose_request_was_answered_gets_no_second_answer(edge: Running) -> None:
    """A malformed rest closes the connection, and nothing is said that could pass for the next answer."""
    with edge.client() as client:
        client.sendall(b"POST /x HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        received = client.recv(65536)
        assert received.startswith(b"HTTP/1.1 200 ")
        client.sendall(b"zz\r\n")
        while piece := client.recv(65536):
            received += piece
    assert received.count(b"HTTP/1.1 ") == 1


HOSTS: dict[bytes, int] = {
    b"localhost": 200,
    b"localhost:8000": 200,
    b"LOCALHOST.": 200,
    b"app.localhost": 200,
    b"127.0.0.1": 200,
    b"127.1.2.3:80": 200,
    b"[::1]": 200,
    b"[::1]:8000": 200,
    b"evil.example": 421,
    b"localhost.evil.example": 421,
    b"10.0.0.1": 421,
    b"[::2]:8000": 421,
    b"a": 421,
}


@pytest.mark.parametrize(("host", "status"), HOSTS.items())
def test_a_loopback_address_is_addressed_by_its_own_names(edge: Running, host: bytes, status: int) -> None:
    """A name of somebody's DNS that points here is refused, in an absolute target too."""
    for target in (b"/x", b"http://%b/x" % host):
        sent = b"GET %b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % (target, host)
        assert [answer.status for answer in answers(edge.exchange(sent))] == [status]


def test_a_request_of_http_1_0_needs_no_host(edge: Running) -> None:
    """Such clients are no browsers."""
    assert edge.exchange(b"GET /x HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("options", "host", "status"),
    [
        ({"host": "0.0.0.0"}, b"any.example", 200),
        ({"allowed_hosts": ["*"]}, b"any.example", 200),
        ({"allowed_hosts": ["shop.example", "*.svc"]}, b"Shop.Example:80", 200),
        ({"allowed_hosts": ["shop.example", "*.svc"]}, b"a.b.svc", 200),
        ({"allowed_hosts": ["shop.example", "*.svc"]}, b"svc", 421),
        ({"allowed_hosts": [".shop.example"]}, b"shop.example", 200),
        ({"allowed_hosts": ["10.0.0.1", "::5"]}, b"[::5]:80", 200),
        ({"allowed_hosts": ["shop.example"]}, b"localhost", 421),
        ({}, b"[::ffff:127.0.0.1]:80", 200),
        ({}, b"[::ffff:10.0.0.1]", 421),
        ({"allowed_hosts": ["10.0.0.1"]}, b"[::ffff:10.0.0.1]", 200),
    ],
)
def test_other_hosts_are_allowed_by_an_option(options: dict[str, Any], host: bytes, status: int) -> None:
    """The list counts instead of the default."""
    with running(**{"allowed_hosts": None, **options}) as edge:
        sent = b"GET /x HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % host
        assert [answer.status for answer in answers(edge.exchange(sent))] == [status]


ORIGINS: dict[str | None, int] = {
    None: 101,
    "http://localhost:3000": 101,
    "https://127.0.0.1": 101,
    "http://[::1]:3000": 101,
    "https://evil.example": 403,
    "http://localhost.evil.example": 403,
    "http://evil.example:8000": 403,
    "null": 403,
    "localhost": 403,
    "http://localhost@evil.example": 403,
}


@pytest.mark.parametrize(("origin", "status"), ORIGINS.items())
def test_a_websocket_is_for_pages_of_the_allowed_hosts(edge: Running, origin: Any, status: int) -> None:
    """Browsers ask no permission for one; a client without an Origin is no browser."""
    url = f"ws://localhost:{edge.address[1]}/echo"
    if status == 101:
        with connect(url, origin=origin, proxy=None) as websocket:
            websocket.send("hi")
            assert websocket.recv() == "hi"
        return
    with pytest.raises(InvalidStatus) as caught:
        connect(url, origin=origin, proxy=None)
    response = caught.value.response
    assert (response.status_code, response.headers["X-Stamp"]) == (403, "yes")
    assert json.loads(response.body)["request_id"] == response.headers["X-Request-Id"]


def test_origins_have_an_option_of_their_own() -> None:
    """A page of one host may use the WebSockets of another."""
    with running(allowed_hosts=None, allowed_origins=["app.example"]) as edge:
        url = f"ws://localhost:{edge.address[1]}/echo"
        with connect(url, origin="https://app.example", proxy=None):  # type: ignore[arg-type]
            pass
        with pytest.raises(InvalidStatus, match="403"):
            connect(url, origin="http://localhost", proxy=None)  # type: ignore[arg-type]


def test_a_websocket_for_another_host_is_refused(edge: Running) -> None:
    """With 421, as over HTTP."""
    with pytest.raises(InvalidStatus) as caught:
        connect("ws://evil.example/echo", sock=edge.client(), proxy=None)
    assert (caught.value.response.status_code, caught.value.response.headers["X-Stamp"]) == (421, "yes")


def test_the_table_of_routes_can_be_switched_off() -> None:
    """It is a 404 then, which no other answer contradicts."""
    client = serve.start(runtime="local", name="unlisted", http_options={"port": 0, "list_routes": False})
    try:
        with httpx.Client(base_url=client.http_urls[0], trust_env=False, timeout=30) as http:
            answers = [http.get(path) for path in ("/-/routes", "/%2d/routes", "/nowhere", "/-/x")]
            assert http.get("/-/live").text == "ok"
        assert [answer.status_code for answer in answers] == [404] * 4
        assert [answer.json()["detail"] for answer in answers[2:]] == [
            "no route matches '/nowhere'",
            "nothing is at '/-/x'; see /-/live, /-/ready",
        ]
    finally:
        client.shutdown()


def test_the_status_counts_refusals() -> None:
    """By status, those of the edge and those of the routes."""
    client = serve.start(runtime="local", name="refusals", http_options={"port": 0})
    try:
        url = client.http_urls[0]
        with httpx.Client(trust_env=False, timeout=30) as http:
            assert http.get(f"{url}/nowhere").status_code == 404
            assert http.get(f"{url}/nowhere", headers={"Host": "evil.example"}).status_code == 421
            assert http.post(f"{url}/-/live", headers={"X-Request-Id": "mine"}).json()["request_id"] == "mine"
        (proxy,) = client.status()["proxies"].values()
        assert proxy == {"url": url, "refused": {"404": 1, "405": 1, "421": 1}}
        assert "refused requests since its start: 1 with 404, 1 with 405, 1 with 421" in commands.status(client).text
    finally:
        client.shutdown()


def test_refusals_for_want_of_a_slot_or_a_method_are_counted() -> None:
    """Over WebSockets as over HTTP: a client chooses how many there are."""
    client = serve.start(runtime="local", name="wanting", http_options={"port": 0})
    try:
        client.create_backend("full", echo, config={"max_concurrent_queries": 1, "max_queued_queries": 0})
        client.create_backend("free", echo)
        for name in ("full", "free"):
            client.create_endpoint(name, backend=name, route=f"/{name}")
        url = client.http_urls[0]
        address = f"ws{url.removeprefix('http')}/full"
        nope = {"X-Serve-Call-Method": "nope"}
        with connect(address, proxy=None) as holder, httpx.Client(trust_env=False, timeout=30) as http:
            holder.send("hi")
            assert holder.recv() == "hi"
            with pytest.raises(InvalidStatus, match="503"):
                connect(address, proxy=None)
            with pytest.raises(InvalidStatus, match="404"):
                connect(address.replace("full", "free"), additional_headers=nope, proxy=None)
            assert http.get(f"{url}/full").status_code == 503
            assert http.get(f"{url}/free", headers=nope).status_code == 404
        (proxy,) = client.status()["proxies"].values()
        assert proxy["refused"] == {"404": 2, "503": 2}
    finally:
        client.shutdown()


def test_a_client_that_has_ended_its_side_gets_the_refusal(edge: Running) -> None:
    """Its end may be read before the application has answered."""
    for sent in (POST + b"Content-Length: 1001\r\n\r\n", CHUNKED + b"3e9\r\n" + b"x" * 1001):
        with edge.client() as client:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            (answer,) = answers(read_all(client))
        assert answer.status == 413
