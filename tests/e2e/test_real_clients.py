"""Clients and a reverse proxy that others wrote, against the edge: Java's HttpClient, curl, nginx in front."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.websockets import WebSocket
from websockets.sync.client import connect

import serve_bridge as serve
from tests.support.edge_server import Answer, answers, read_all
from tests.support.java import HTTP_CLIENT, run_java
from tests.support.nginx import WEBSOCKET_BLOCK, nginx

pytestmark = pytest.mark.e2e

INLINE = 64 * 1024
SIZES = [1, INLINE - 1, INLINE, INLINE + 1]


PATHS: list[str] = []
"""The paths that user code was called with."""


async def show(request: Any) -> dict[str, Any] | None:
    """Show what reaches user code; echo a message of a WebSocket."""
    if isinstance(request, WebSocket):
        await request.accept()
        await request.send_text(await request.receive_text())
        return None
    PATHS.append(request.url.path)
    body = await request.body()
    start = body[:100].decode("latin-1")
    return {"method": request.method, "query": request.url.query, "size": len(body), "start": start}


@pytest.fixture(scope="module")
def running() -> Iterator[str]:
    """Run an instance in this process; host and port of its proxy."""
    client = serve.start(runtime="local", name="real-clients", http_options={"port": 0})
    client.create_backend("show", show)
    client.create_endpoint("show", backend="show", route="/{rest:path}", methods=["GET", "POST", "PUT"])
    yield client.http_urls[0].removeprefix("http://")
    client.shutdown()


@pytest.fixture
def site(running: str) -> str:
    """Return the address of the instance, which has no memories."""
    PATHS.clear()
    return running


# Java


def test_javas_http_client_gets_its_answers(site: str, tmp_path: Path) -> None:
    """It offers h2c with the first request on a connection, even a POST; the offer is ignored, the body arrives."""
    printed = run_java(HTTP_CLIENT, tmp_path, f"http://{site}/java", *map(str, SIZES))
    lines = [line.split("\t") for line in printed.splitlines()]
    found = [(name, status, json.loads(body)["method"], json.loads(body)["size"]) for name, status, body in lines]
    posts = [(framing, "200", "POST", size) for size in SIZES for framing in ("length", "chunks")]
    assert found == [("GET", "200", "GET", 0), *posts]


# curl


def curl(*arguments: str, sent: bytes = b"") -> dict[str, Any]:
    """Run curl; return the JSON that it got."""
    program = shutil.which("curl")
    if program is None:
        pytest.skip("there is no curl here; see SYSTEM_PACKAGES in the Makefile")
    command = [program, "--silent", "--show-error", "--fail-with-body", "--max-time", "60", *arguments]
    ended = subprocess.run(command, input=sent, capture_output=True, timeout=90)
    assert ended.returncode == 0, (ended.stdout, ended.stderr)
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


@pytest.mark.parametrize(
    "options",
    [
        ["--http1.0", "--data-binary", "@-"],
        ["--http1.1", "--data-binary", "@-"],
        ["--http1.1", "--data-binary", "@-", "--header", "Transfer-Encoding: chunked"],
        ["--http2", "--data-binary", "@-"],
        ["--http2", "--data-binary", "@-", "--header", "Transfer-Encoding: chunked"],
        ["--http2", "--upload-file", "-"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("size", [*SIZES, 2 * 1024 * 1024])
def test_curl_gets_its_answer(site: str, options: list[str], size: int) -> None:
    """With an offer of h2c, with `Expect: 100-continue`, which curl sends for long bodies, and in chunks."""
    found = curl(*options, f"http://{site}/curl", sent=b"x" * size)
    assert found["size"] == size


def test_curl_sends_a_query_as_it_was_typed(site: str) -> None:
    """The bytes are UTF-8; user code reads the text."""
    assert curl(f"http://{site}/curl?q=zürich")["query"] == "q=z%C3%BCrich"


# nginx


LOCATIONS = f"""
location / {{ {WEBSOCKET_BLOCK} }}
location /hidden {{ deny all; }}
"""
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: localhost\r\nX-Attack: 1\r\n\r\n"


@pytest.fixture(scope="module")
def front(running: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Run nginx in front of the instance, with its block for WebSockets and a location that it denies."""
    with nginx(tmp_path_factory.mktemp("nginx"), running, LOCATIONS) as address:
        yield address


def ask(address: tuple[str, int], *requests: bytes) -> list[Answer]:
    """Send *requests* on one connection, of which the last one ends it; return the answers."""
    with socket.create_connection(address, timeout=20) as client:
        client.sendall(b"".join(requests))
        return answers(read_all(client))


def get(path: bytes) -> bytes:
    """Return the bytes of a GET, after which the connection closes."""
    return b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path


@pytest.mark.parametrize("upgrade", [b"h2c", b"anything", b"TLS/1.0", b"websocket, h2c", b"websocket"])
@pytest.mark.parametrize("chunked", [True, False])
def test_what_nginx_denies_stays_out_of_reach(site: str, front: tuple[str, int], upgrade: bytes, chunked: bool) -> None:
    """A body is not read as a request, and the next user of the connection to the proxy gets the answer to theirs."""
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN) if chunked else HIDDEN
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(HIDDEN)
    head = b"POST /open HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: %b\r\n%b\r\n\r\n" % (
        upgrade,
        framing,
    )
    (attack,) = ask(front, head + body)
    for number in range(3):
        (answer,) = ask(front, get(b"/user?%d" % number))
        assert (answer.status, json.loads(answer.body)["query"]) == (200, str(number))
    if upgrade == b"websocket":  # which needs a GET
        assert (attack.status, PATHS) == (400, ["/user"] * 3)
    else:
        assert (attack.status, json.loads(attack.body)["start"]) == (200, HIDDEN.decode())
        assert [*PATHS] == ["/open", *["/user"] * 3]


def test_what_nginx_denies_is_denied(site: str, front: tuple[str, int]) -> None:
    """The location is there, and the instance would answer it."""
    assert [answer.status for answer in ask(front, get(b"/hidden"))] == [403]
    assert PATHS == []
    host, _, port = site.partition(":")
    assert [answer.status for answer in ask((host, int(port)), get(b"/hidden"))] == [200]


def test_a_websocket_passes_nginx(front: tuple[str, int]) -> None:
    """The block does what it is for."""
    with connect(f"ws://{front[0]}:{front[1]}/chat") as websocket:
        websocket.send("hello")
        assert websocket.recv(20) == "hello"
