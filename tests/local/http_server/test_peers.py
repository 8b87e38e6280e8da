"""Clients of a proxy that leave in the middle, cross with a deadline, or are too many; they leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

import serve_bridge as serve
from tests.support.edge_server import answers, read_all, running
from tests.support.waiting import wait_until_equal

GET = b"GET /work HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET /work HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
POST = b"POST /work HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
HANDSHAKE = (
    b"GET /work HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
RESET = b"\1\0\0\0\0\0\0\0"

_waiting = threading.Semaphore(0)


async def work(request: Any) -> Any:
    """Do what the path says, and count what is left in the middle."""
    if request.scope["type"] == "websocket":
        await request.accept()
        await request.receive()
        return None
    if request.query_params.get("wait"):
        _waiting.release()
        await asyncio.Event().wait()
    if request.query_params.get("stream"):
        return stream()
    return str(len(await request.body()))


async def stream() -> Any:
    """Never end."""
    while True:
        yield b"x" * 65536


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    """A proxy with a backend behind it."""
    client = serve.start(runtime="local", name="edge-peers", http_options={"port": 0, "allowed_hosts": ["*"]})
    client.create_backend("work", work, config={"max_concurrent_queries": 4})
    client.create_endpoint("work", backend="work", route="/work", methods=["GET", "POST"])
    host, _, port = client.http_urls[0].removeprefix("http://").rpartition(":")
    yield host, int(port)
    client.shutdown()


def open_files() -> int:
    """The file descriptors of this process, in which proxy and replica are threads."""
    return psutil.Process().num_fds()


def served(address: tuple[str, int]) -> list[int]:
    """The statuses that a new connection gets."""
    with socket.create_connection(address) as client:
        client.settimeout(20)
        client.sendall(LAST)
        return [answer.status for answer in answers(read_all(client))]


# Leaving in every phase


PHASES: dict[str, tuple[bytes, bytes]] = {
    "connected": (b"", b""),
    "in the request line": (b"GET /wo", b""),
    "in a header": (GET[:-6], b""),
    "before the body": (POST + b"Content-Length: 5\r\n\r\n", b""),
    "in the body": (POST + b"Content-Length: 500000\r\n\r\n" + b"x" * 100_000, b""),
    "in a chunk's size": (CHUNKED + b"ff", b""),
    "in a chunk": (CHUNKED + b"ff\r\nx", b""),
    "in the trailers": (CHUNKED + b"0\r\nA: b", b""),
    "waiting to continue": (POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n", b"HTTP/1.1 100 "),
    "before the answer": (GET.replace(b"/work", b"/work?wait=1"), b""),
    "in the answer": (GET.replace(b"/work", b"/work?stream=1"), b"HTTP/1.1 200 "),
    "after the answer": (GET, b"HTTP/1.1 200 "),
    "pipelining": (GET * 50, b"HTTP/1.1 200 "),
    "after a refusal": (b"GET\r\n\r\n", b"HTTP/1.1 400 "),
    "during a large refused body": (POST + b"Content-Length: 99999999\r\n\r\n" + b"x" * 500_000, b"HTTP/1.1 413 "),
    "in a handshake": (HANDSHAKE[:-2], b""),
    "in a WebSocket": (HANDSHAKE, b"HTTP/1.1 101 "),
    "in a frame": (HANDSHAKE + b"\x81\xfe", b"HTTP/1.1 101 "),
}


@pytest.mark.parametrize("reset", [True, False], ids=["RST", "FIN"])
@pytest.mark.parametrize(("sent", "wanted"), PHASES.values(), ids=PHASES)
def test_a_client_may_leave_at_any_time(
    address: tuple[str, int], sent: bytes, wanted: bytes, reset: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing of it stays: no descriptor, no place at the backend, no error in the log."""
    assert served(address) == [200]
    before = open_files()
    for _ in range(5):  # more than the backend has places
        client = socket.create_connection(address)
        client.settimeout(20)
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        with contextlib.suppress(ConnectionError):  # it may refuse before it has read everything
            client.sendall(sent)
        if wanted:
            assert client.recv(len(wanted)) == wanted
        if b"wait=1" in sent:
            assert _waiting.acquire(timeout=20)
        client.close()
    assert served(address) == [200]
    wait_until_equal(open_files, before)
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


@pytest.mark.parametrize(
    "sent", [LAST, POST + b"Connection: close\r\nContent-Length: 3\r\n\r\nabc"], ids=["GET", "POST"]
)
def test_a_half_closed_client_is_answered(address: tuple[str, int], sent: bytes) -> None:
    """S05: the end of its own side is no goodbye."""
    with socket.create_connection(address) as client:
        client.settimeout(20)
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        assert [answer.status for answer in answers(read_all(client))] == [200]


# Crossing with a deadline


def test_a_request_that_crosses_with_the_idle_deadline_is_answered_or_meets_a_clean_end() -> None:
    """S13: it has come, unread, when the deadline passes; there is no reset, nor a part of an answer."""
    with running(keep_alive_timeout_s=600) as edge, edge.client() as client:
        client.sendall(GET)
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        blocked, sent = threading.Event(), threading.Event()

        def block() -> None:
            blocked.set()
            sent.wait(20)
            edge.server._sweep(edge.loop.time() + 601, 1)  # before the loop looks at what has come

        edge.loop.call_soon_threadsafe(block)
        assert blocked.wait(20)
        client.sendall(LAST)
        sent.set()
        received = b""
        while piece := client.recv(65536):
            received += piece
    assert [answer.status for answer in answers(received)] in ([], [200])


# No file descriptors left


SERVER = """
import asyncio, logging, os, resource, socket, sys, uvloop
from serve_bridge.config.http_options import HTTPOptions
from serve_bridge.http_server.server import HttpServer

async def app(scope, receive, send):
    if scope["path"] == "/tries":
        body = str(len(Counting.tries)).encode()
    elif scope["path"] == "/take":  # all that are left
        taken = []
        try:
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
        held.extend(taken)
        body = str(len(taken)).encode()
    else:
        while held:
            os.close(held.pop())
        body = b"ok"
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

async def main():
    server = HttpServer(app, HTTPOptions(port=0, allowed_hosts=["*"], keep_alive_timeout_s=600, header_timeout_s=600))
    print(await server.start(), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()

class Counting(socket.socket):
    tries = []

    def accept(self):
        self.tries.append(None)
        return super().accept()

held = []
socket.socket = Counting
logging.basicConfig()
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
uvloop.run(main())
"""


@pytest.fixture
def scarce() -> Iterator[tuple[tuple[str, int], subprocess.Popen[str]]]:
    """A server in a process that may have 256 file descriptors."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield ("127.0.0.1", int(process.stdout.readline().rpartition(":")[2])), process
        finally:
            process.communicate(timeout=30)


def ask(client: socket.socket, path: str) -> Any:
    """Ask over an open connection."""
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    received = b""
    while b"\r\n\r\n" not in received or received.endswith(b"\r\n\r\n"):
        received += client.recv(65536)
    return received.partition(b"\r\n\r\n")[2].decode()


def test_more_clients_than_descriptors_wait(scarce: tuple[tuple[str, int], subprocess.Popen[str]]) -> None:
    """P34: those that are connected are served, the others are when places come free; nobody is reset."""
    address, _ = scarce
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(address, timeout=20)) for _ in range(300)]
        assert ask(clients[0], "/") == "ok"
        clients[-1].sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        for client in clients[:-1]:
            client.close()
        assert clients[-1].recv(65536).startswith(b"HTTP/1.1 200 ")


def test_without_a_descriptor_left_accepting_pauses(scarce: tuple[tuple[str, int], subprocess.Popen[str]]) -> None:
    """P34: it does not spin, says so once, and goes on when there is one again."""
    address, process = scarce
    with socket.create_connection(address, timeout=20) as client:
        assert int(ask(client, "/take")) > 100
        with socket.create_connection(address, timeout=20) as waiting:
            waiting.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            waiting.settimeout(1.5)
            before = int(ask(client, "/tries"))
            with pytest.raises(TimeoutError):
                waiting.recv(1)
            assert int(ask(client, "/tries")) - before < 10
            assert ask(client, "/") == "ok"
            waiting.settimeout(20)
            assert waiting.recv(65536).startswith(b"HTTP/1.1 200 ")
    _, errors = process.communicate(timeout=30)
    assert errors.count("cannot accept connections for now") == 1
