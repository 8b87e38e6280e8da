"""Requests whose body is asked for, refused or not read at all: what the client sees, and that its connection closes.

Clients are plain sockets, which send exactly what a test says; their answers are read by h11, a strict client.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import h11
import httpx
import pytest
from starlette.exceptions import HTTPException
from starlette.responses import Response

import serve_bridge as serve
from tests.support.serving import Served, Serving

MIB: Final = 1024 * 1024
HUGE: Final = 100 * MIB
"""What kernels may hold of an upload that nobody reads."""
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


async def upload(request: Any) -> Any:
    """Do with the body what the query says."""
    what = request.query_params.get("do", "read")
    if what == "refuse":
        raise HTTPException(413, "too much")
    if what == "deny":
        return Response(b"who are you?", 401)
    if what == "ignore":
        return "enough"
    if what == "peek":
        return str(len(await anext(request.stream())) > 0)
    return str(len(await request.body()))


def read_never(request: Any) -> str:
    """Answer without a look at the body."""
    return "enough"


@pytest.fixture(scope="module")
def client(runtime: str) -> Iterator[serve.Client]:
    """An instance that takes long bodies."""
    client = serve.start(runtime=runtime, name="uploads", http_options={"port": 0, "max_body_bytes": HUGE})
    yield client
    client.shutdown()


@pytest.fixture(scope="module")
def uploads(module_serving: Serving) -> Served:
    """A backend that reads the body or does not."""
    return module_serving(upload)


@pytest.fixture(scope="module", params=[upload, read_never], ids=["async def", "def"])
def careless(request: pytest.FixtureRequest, module_serving: Serving) -> Served:
    """A backend that may answer without a look at the body."""
    return module_serving(request.param)


Connect = Callable[[], socket.socket]


@pytest.fixture
def connect(http: httpx.Client) -> Iterator[Connect]:
    """Opens connections to the proxy; they are closed with the test."""
    where = urlsplit(str(http.base_url))
    opened: list[socket.socket] = []

    def connect() -> socket.socket:
        opened.append(socket.create_connection((where.hostname, where.port), timeout=20))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


def head(target: str, *headers: str) -> bytes:
    """Return the head of a POST."""
    return "\r\n".join([f"POST {target} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def answer_of(connection: socket.socket) -> tuple[int, bytes, dict[bytes, bytes]]:
    """Read one answer; return status, body and headers."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="POST", target="/", headers=[("host", "127.0.0.1"), ("content-length", "0")]))
    client.send(h11.EndOfMessage())
    status, body, headers = 0, b"", {}
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            client.receive_data(connection.recv(65536))
        elif isinstance(event, h11.Response):
            status, headers = event.status_code, dict(event.headers)
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
    return status, body, headers


# Early answers (B13)


@pytest.mark.parametrize(("what", "status"), [("refuse", 413), ("peek", 200)])
def test_an_answer_comes_before_the_body_and_the_connection_closes(
    uploads: Served, connect: Connect, what: str, status: int
) -> None:
    """The server says that it sends no more, and drops what still comes, so that any client can read the answer."""
    connection = connect()
    connection.sendall(head(f"{uploads.route}?do={what}", f"Content-Length: {HUGE}") + b"x" * 200_000)
    got, _, headers = answer_of(connection)
    assert (got, headers[b"connection"]) == (status, b"close")
    connection.sendall(bytes(200_000))
    assert connection.recv(1) == b""


def test_a_client_that_sends_first_and_reads_later_gets_the_answer(careless: Served, connect: Connect) -> None:
    """As long as what it sends is no more than what is drained."""
    connection = connect()
    connection.sendall(head(f"{careless.route}?do=ignore", f"Content-Length: {HUGE}") + b"x" * 60_000)
    assert answer_of(connection)[:2] == (200, b"enough")


def test_a_short_body_that_nobody_reads_keeps_the_connection(careless: Served, connect: Connect) -> None:
    """It is skipped; what follows it is the next request."""
    connection = connect()
    request = head(f"{careless.route}?do=ignore", "Content-Length: 5") + b"GET /"
    for _ in range(2):
        connection.sendall(request)
        assert answer_of(connection)[:2] == (200, b"enough")


def test_nothing_of_an_unread_chunked_body_is_a_request(uploads: Served, connect: Connect) -> None:
    """However it is framed."""
    connection = connect()
    smuggled = b"GET /-/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    chunk = b"%x\r\n" % (70_000 + len(smuggled)) + b"x" * 70_000 + smuggled + b"\r\n"
    connection.sendall(head(f"{uploads.route}?do=ignore", "Transfer-Encoding: chunked") + chunk)
    assert answer_of(connection)[:2] == (200, b"enough")
    assert not connection.recv(65536)


# Expect: 100-continue (H26)


def expect(target: str, length: int) -> bytes:
    """Return the head of a POST whose client waits for a 100."""
    return head(target, f"Content-Length: {length}", "Expect: 100-continue")


@pytest.mark.parametrize("length", [3, 200_000], ids=["short", "long"])
def test_a_100_comes_when_user_code_reads(uploads: Served, connect: Connect, length: int) -> None:
    """Once; the body that follows arrives whole."""
    connection = connect()
    connection.sendall(expect(uploads.route, length))
    assert connection.recv(65536) == CONTINUE
    connection.sendall(b"x" * length)
    assert answer_of(connection)[:2] == (200, str(length).encode())


@pytest.mark.parametrize("length", [3, 200_000], ids=["short", "long"])
@pytest.mark.parametrize(("what", "status"), [("ignore", 200), ("deny", 401), ("refuse", 413)])
def test_an_answer_without_reading_comes_without_a_100(
    uploads: Served, connect: Connect, what: str, status: int, length: int
) -> None:
    """And the connection closes: whether the body follows is for the client to know."""
    connection = connect()
    connection.sendall(expect(f"{uploads.route}?do={what}", length))
    assert connection.recv(12, socket.MSG_PEEK | socket.MSG_WAITALL) == b"HTTP/1.1 %d" % status
    got, _, headers = answer_of(connection)
    assert (got, headers[b"connection"]) == (status, b"close")
    assert not connection.recv(65536)


def test_a_body_that_is_too_long_is_refused_without_a_100(uploads: Served, connect: Connect) -> None:
    """By its Content-Length."""
    connection = connect()
    connection.sendall(expect(uploads.route, HUGE + 1))
    assert connection.recv(12, socket.MSG_PEEK | socket.MSG_WAITALL) == b"HTTP/1.1 413"


def test_a_client_that_does_not_wait_is_served_too(uploads: Served, connect: Connect) -> None:
    """It may have sent the body before the 100 has come."""
    connection = connect()
    connection.sendall(expect(uploads.route, 3) + b"abc")
    assert connection.recv(len(CONTINUE), socket.MSG_WAITALL) == CONTINUE
    assert answer_of(connection)[:2] == (200, b"3")


def test_an_expectation_without_a_body_is_nothing(uploads: Served, connect: Connect) -> None:
    """There is nothing to go on with."""
    connection = connect()
    connection.sendall(head(uploads.route, "Expect: 100-continue"))
    assert answer_of(connection)[:2] == (200, b"0")


def test_an_unknown_expectation_is_a_417(uploads: Served, connect: Connect) -> None:
    """Nobody could meet it."""
    connection = connect()
    connection.sendall(head(uploads.route, "Content-Length: 3", "Expect: 200-maybe"))
    assert answer_of(connection)[0] == 417


def test_a_client_that_leaves_instead_of_going_on_ends_its_request(uploads: Served, connect: Connect) -> None:
    """The next one is served."""
    connection = connect()
    connection.sendall(expect(uploads.route, 3))
    assert connection.recv(65536) == CONTINUE
    connection.close()
    assert uploads.handle.options(http_method="POST").call(b"next") == "4"
