"""The edge under more than it may hold: who is refused, who is served, and that nothing stays counted in the end."""

from __future__ import annotations

import contextlib
import itertools
import logging
import random
import socket
import struct
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.responses import StreamingResponse
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

import serve_bridge as serve
from serve_bridge.http_server.buffers import Buffers, Share
from serve_bridge.http_server.request_sequence import BODY_HELD_BYTES, UNREAD_BYTES
from tests.support.edge_server import Running, answers, read_all, running, statuses
from tests.support.waiting import wait_until, wait_until_equal

MIB: Final = 1024 * 1024
LIMIT: Final = 2 * MIB
ROOM: Final = -(-LIMIT * 3 // 4 // BODY_HELD_BYTES)
"""Long uploads that are let in."""
GET: Final = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LAST: Final = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def head(length: int | None, path: str = "hold", *more: str) -> bytes:
    """Return the head of a request with a body; *length* None: in chunks."""
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return "\r\n".join([f"POST /{path} HTTP/1.1", "Host: a", framing, *more, "", ""]).encode()


@pytest.fixture
def buffers() -> Buffers:
    """The account of the server."""
    return Buffers(LIMIT, logging.getLogger("serve_bridge.proxy"))


@pytest.fixture
def edge(buffers: Buffers) -> Iterator[Running]:
    """A server that may hold little."""
    with running(buffers=buffers) as edge:
        yield edge


@contextlib.contextmanager
def slow_uploads(edge: Running, count: int = ROOM) -> Iterator[list[socket.socket]]:
    """Let *count* clients begin long uploads, and stop in their middle."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(edge.client()) for _ in range(count)]
        for client in clients:
            client.sendall(head(MIB) + bytes(1000))
        wait_until_equal(lambda: edge.app.paths.count("/hold"), count)
        yield clients


def let_go(edge: Running) -> None:
    """Let the application read on."""
    edge.loop.call_soon_threadsafe(edge.app.go.set)


def test_requests_behind_a_running_one_are_counted(edge: Running, buffers: Buffers) -> None:
    """The connection has read them, and cannot serve them yet."""
    with edge.client() as client:
        client.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n" + b"GET /" + bytes(70_000))
        wait_until(lambda: buffers.held >= UNREAD_BYTES)
        let_go(edge)
        assert statuses(read_all(client)) == [200, 400]
    wait_until_equal(lambda: buffers.held, 0)


def test_a_head_that_does_not_end_is_counted(edge: Running, buffers: Buffers) -> None:
    """Its connection may be one of thousands."""
    sent = b"GET / HTTP/1.1\r\nHost: a\r\nCookie: " + b"c" * 40_000
    with edge.client() as client:
        client.sendall(sent)
        wait_until_equal(lambda: buffers.held, len(sent))
        client.sendall(b"\r\nConnection: close\r\n\r\n")
        assert statuses(read_all(client)) == [200]
    wait_until_equal(lambda: buffers.held, 0)


@pytest.mark.parametrize("framing", [10, MIB, None], ids=["short", "long", "chunks"])
def test_a_body_too_many_is_refused_before_it_is_read(edge: Running, framing: int | None) -> None:
    """However short; its client may come again, since nothing was started, and the connection closes."""
    with slow_uploads(edge), edge.client() as client:
        client.sendall(head(framing))
        (answer,) = answers(read_all(client))
        assert answer.status == 503
        told = {name: answer.headers[name] for name in (b"retry-after", b"x-serve-executed", b"connection")}
        assert told == {b"retry-after": b"1", b"x-serve-executed": b"no", b"connection": b"close"}
    assert edge.app.paths.count("/hold") == ROOM


def test_who_waits_to_be_asked_for_a_body_is_refused_without(edge: Running) -> None:
    """The answer to an expectation is the refusal, and no 100."""
    with slow_uploads(edge):
        assert statuses(edge.exchange(head(10, "hold", "Expect: 100-continue"))) == [503]


def test_the_others_are_served_meanwhile_and_afterwards(edge: Running, buffers: Buffers) -> None:
    """Requests without a body, and the uploads that were let in; then there is room again."""
    with slow_uploads(edge) as clients:
        assert statuses(edge.exchange(head(10))) == [503]
        assert statuses(edge.exchange(LAST)) == [200]
        let_go(edge)
        for client in clients:
            client.sendall(bytes(MIB - 1000))
            assert client.recv(4096).endswith(b"%d" % MIB)
        wait_until_equal(lambda: buffers.held, 0)
    assert statuses(edge.exchange(head(4, "read", "Connection: close") + b"body")) == [200]


def test_a_body_counts_as_what_of_it_may_be_here(edge: Running, buffers: Buffers) -> None:
    """By its length if it is short; in chunks it is taken for long until it has ended."""
    with edge.client() as sized, edge.client() as chunked:
        sized.sendall(head(7))
        wait_until_equal(lambda: buffers.held, 7)
        chunked.sendall(head(None) + b"2\r\nab\r\n")
        wait_until_equal(lambda: buffers.held, 7 + BODY_HELD_BYTES)
        chunked.sendall(b"0\r\n\r\n")
        wait_until_equal(lambda: buffers.held, 7 + 2)
        let_go(edge)
        sized.sendall(b"1234567")
        wait_until_equal(lambda: buffers.held, 0)


def test_a_request_without_a_body_holds_nothing(edge: Running, buffers: Buffers) -> None:
    """While it is answered, and when it was."""
    with edge.client() as client:
        client.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        assert edge.app.started.wait(30)
        assert buffers.held == 0
        let_go(edge)
        assert client.recv(4096).endswith(b"waited")
        assert buffers.held == 0


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize(
    "sent",
    [
        head(MIB),
        head(MIB) + bytes(MIB // 2),
        head(1000) + bytes(1000),
        head(None) + b"2\r\nab\r\n",
        head(10, "nowhere") + GET,
        head(MIB, "nowhere") + bytes(MIB // 2),
        b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n",
        GET * 2000,
        head(10).replace(b"HTTP/1.1", b"HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade") + bytes(10),
    ],
    ids=["head", "part", "whole", "chunk", "unread", "long unread", "answer", "pipeline", "handshake"],
)
def test_a_client_that_leaves_is_counted_no_more(edge: Running, buffers: Buffers, sent: bytes, reset: bool) -> None:
    """In any phase of a request, or of many."""
    client = edge.client()
    with contextlib.suppress(TimeoutError):  # who is not read from need not have sent it all
        client.settimeout(0.2)
        client.sendall(sent)
    wait_until(lambda: edge.app.paths or b"Upgrade" in sent)
    if reset:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    let_go(edge)
    wait_until_equal(lambda: buffers.held, 0)


def test_nothing_stays_counted_whatever_clients_do(edge: Running, buffers: Buffers) -> None:
    """At random: begun, broken off at any byte, reset or closed, with answers that are taken or not."""
    chance = random.Random(24)
    let_go(edge)
    requests = [head(300_000, path) + bytes(300_000) for path in ("read", "hold", "nowhere")]
    requests += [head(None, "read") + b"4\r\nabcd\r\n" * 100 + b"0\r\n\r\n", GET * 50, LAST]
    for _ in range(60):
        with edge.client() as client, contextlib.suppress(OSError):
            data = b"".join(chance.choices(requests, k=chance.randrange(1, 4)))
            client.settimeout(chance.choice((0.02, 0.2)))
            client.sendall(data[: chance.randrange(len(data))] if chance.random() < 0.6 else data)
            if chance.random() < 0.5:
                client.recv(1000)
            if chance.random() < 0.5:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until_equal(lambda: buffers.held, 0)


def test_an_answer_that_nobody_takes_is_counted_and_cut_off_when_there_is_no_room(
    edge: Running, buffers: Buffers
) -> None:
    """It counts with what may be ready behind it; the whole `write_timeout_s` is for when there is room."""
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            client = stack.enter_context(edge.client())
            client.sendall(b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
        assert edge.app.left.wait(20)
    wait_until_equal(lambda: buffers.held, 0)


def test_near_the_limit_idle_connections_close(edge: Running, buffers: Buffers) -> None:
    """Those that wait for a request which may never come, while answers close theirs."""
    with edge.client() as idle:
        idle.sendall(GET)
        assert b"\r\nconnection: close" not in idle.recv(4096)
        share = Share(buffers)
        edge.loop.call_soon_threadsafe(share.set, int(LIMIT * 0.95))
        assert idle.recv(4096) == b""
        with edge.client() as another:
            another.sendall(GET)
            assert b"\r\nconnection: close" in another.recv(4096)
        edge.loop.call_soon_threadsafe(share.give_back)
        wait_until_equal(lambda: keeps_alive(edge), True)


def keeps_alive(edge: Running) -> bool:
    """Return whether an answer leaves its connection open."""
    with edge.client() as client:
        client.sendall(GET)
        return b"\r\nconnection: close" not in client.recv(4096)


def test_an_episode_is_two_log_lines(edge: Running, buffers: Buffers, caplog: pytest.LogCaptureFixture) -> None:
    """One when the first is refused, one when there is room again."""
    caplog.set_level(logging.INFO, "serve_bridge.proxy")
    share = Share(buffers)
    edge.loop.call_soon_threadsafe(share.set, LIMIT)
    wait_until_equal(lambda: buffers.held, LIMIT)
    for _ in range(5):
        assert statuses(edge.exchange(head(10))) == [503]
    edge.loop.call_soon_threadsafe(share.give_back)
    lines = wait_until(lambda: [r.getMessage() for r in caplog.records if "room" in r.getMessage()])
    assert lines == ["there is room again, after 5 requests were refused for lack of it"]
    assert [r.levelname for r in caplog.records] == ["WARNING", "INFO"]


def test_a_websocket_message_that_grows_without_room_is_given_up(edge: Running, buffers: Buffers) -> None:
    """1013: its client may try again later; one that is short passes."""
    share = Share(buffers)
    with connect(f"ws://127.0.0.1:{edge.address[1]}/ws") as websocket:
        edge.loop.call_soon_threadsafe(share.set, LIMIT)
        websocket.send("short")
        assert websocket.recv(10) == "short"
        with contextlib.suppress(ConnectionClosedError):  # it may be closed in the middle of this
            websocket.send(itertools.repeat("x" * 32 * 1024, 100))
        with pytest.raises(ConnectionClosedError) as closed:
            websocket.recv(10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013
    edge.loop.call_soon_threadsafe(share.give_back)
    wait_until_equal(lambda: buffers.held, 0)


def test_the_long_head_of_a_websocket_is_counted_while_it_is_open(edge: Running, buffers: Buffers) -> None:
    """Thousands of idle ones could hold more than the messages of all."""
    cookie = {"Cookie": "c" * 40_000}
    with connect(f"ws://127.0.0.1:{edge.address[1]}/ws", additional_headers=cookie):
        wait_until(lambda: 2 * 40_000 <= buffers.held < 2 * 41_000)
    wait_until_equal(lambda: buffers.held, 0)


def test_a_websocket_message_is_counted_while_it_is_here(edge: Running, buffers: Buffers) -> None:
    """From its first piece on, in one frame as in many."""
    with connect(f"ws://127.0.0.1:{edge.address[1]}/ws", compression=None) as websocket:
        websocket.socket.sendall(b"\x81\xff" + (100_000).to_bytes(8) + bytes(4 + 50_000))
        wait_until_equal(lambda: buffers.held, 50_000)
        websocket.socket.sendall(bytes(50_000))
        assert websocket.recv(10) == "\0" * 100_000
        wait_until_equal(lambda: buffers.held, 0)


# The proxy


async def answer(request: Any) -> Any:
    """Answer with more than sockets take, if asked to."""
    if "long" not in request.query_params:
        return "short"

    async def pieces() -> Any:
        for _ in range(256):
            yield bytes(65536)

    return StreamingResponse(pieces())


@pytest.fixture
def url() -> Iterator[str]:
    """Where a proxy is that may hold little."""
    client = serve.start(
        runtime="local", name="room", http_options={"port": 0, "allowed_hosts": ["*"], "max_buffered_bytes": MIB}
    )
    client.create_backend("answer", answer)
    client.create_endpoint("answer", backend="answer", route="/answer", methods=["GET"])
    yield client.http_urls[0]
    client.shutdown()


def test_at_the_limit_requests_are_refused_and_the_proxys_own_answered(url: str) -> None:
    """Over HTTP and WebSocket alike; whoever fills it without taking anything is cut off, and there is room again."""
    address = urlsplit(url)
    with contextlib.ExitStack() as stack:

        def refused() -> httpx.Response | None:
            greedy = stack.enter_context(socket.create_connection((address.hostname, address.port)))
            greedy.sendall(b"GET /answer?long=1 HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = httpx.get(f"{url}/answer", timeout=30)
            return answer if answer.status_code == 503 else None

        def denied() -> bool:
            refused()
            with pytest.raises(InvalidStatus) as denial, connect(f"ws{url.removeprefix('http')}/answer"):
                pass
            return denial.value.response.status_code == 503

        headers = wait_until(refused).headers
        assert (headers["retry-after"], headers["x-serve-executed"]) == ("1", "no")
        assert httpx.get(f"{url}/-/live", timeout=30).status_code == 200
        wait_until(denied)
    wait_until_equal(lambda: httpx.get(f"{url}/answer", timeout=30).status_code, 200)
