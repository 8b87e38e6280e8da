"""An answer that comes before the end of its upload reaches clients that send everything before they read."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.support.apache import apache
from tests.support.certificates import Certificate, make_certificate
from tests.support.edge_server import Running, running
from tests.support.waiting import reached

LIMIT = 1 << 20
SIZES = [2 * LIMIT, 32 * LIMIT]
PIECE = 64 * 1024

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """One for localhost."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module", params=["plain", "tls"])
def edge(request: pytest.FixtureRequest, certificate: Certificate) -> Iterator[Running]:
    """A server with a small limit for bodies."""
    tls = {"tls": certificate.client, **certificate.options} if request.param == "tls" else {}
    with running(max_body_bytes=LIMIT, **tls) as server:
        yield server


def pieces(size: int) -> Iterator[bytes]:
    """A body of *size* bytes; its length is not known before."""
    for _ in range(size // PIECE):
        yield bytes(PIECE)


def post(edge: Running, path: str, body: bytes | Iterator[bytes]) -> tuple[int, bytes]:
    """POST by http.client, which reads no answer before all of the body is sent."""
    if edge.tls is None:
        connection = http.client.HTTPConnection("localhost", edge.address[1], timeout=20)
    else:
        connection = http.client.HTTPSConnection("localhost", edge.address[1], timeout=20, context=edge.tls)
    chunked = not isinstance(body, bytes)
    headers = {"Transfer-Encoding": "chunked"} if chunked else {}
    connection.request("POST", path, body, headers, encode_chunked=chunked)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_http_client_sees_that_its_body_is_too_large(edge: Running, size: int, chunked: bool) -> None:
    """The server refuses the head, or the chunks once they are too many."""
    status, _ = post(edge, "/read", pieces(size) if chunked else bytes(size))
    assert status == 413


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_http_client_sees_an_answer_of_an_application_that_reads_nothing(edge: Running, chunked: bool) -> None:
    """A 403, most often."""
    body = pieces(LIMIT) if chunked else bytes(LIMIT)
    assert post(edge, "/403", body)[0] == 403


def test_requests_sees_that_its_body_is_too_large(certificate: Certificate) -> None:
    """By name it is the client of most Python programs."""
    with running(max_body_bytes=LIMIT) as edge:
        for body in (bytes(SIZES[-1]), pieces(SIZES[-1])):
            answer = requests.post(f"http://127.0.0.1:{edge.address[1]}/read", data=body, timeout=20)
            assert answer.status_code == 413
            assert answer.json()["title"]


@pytest.mark.parametrize(("path", "status"), [("/read", 413), ("/403", 403)])
def test_apache_passes_an_early_answer_on(tmp_path: Path, path: str, status: int) -> None:
    """mod_proxy says 502 where it finds a broken connection."""
    with running(max_body_bytes=LIMIT) as edge, apache(tmp_path, f"127.0.0.1:{edge.address[1]}") as (host, port):
        for body in (bytes(SIZES[-1] if status == 413 else LIMIT), pieces(LIMIT * (2 if status == 413 else 1))):
            answer = requests.post(f"http://{host}:{port}{path}", data=body, timeout=20)
            assert answer.status_code == status


def test_a_client_that_only_goes_on_sending_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server does not take an upload for ever that nobody reads."""
    monkeypatch.setattr("serve_bridge.http_server.lingering.MOST_LINGER_S", 1.0)
    with running(max_body_bytes=LIMIT, header_timeout_s=1) as edge, edge.client() as client:
        client.sendall(b"POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (1 << 40))
        with pytest.raises(OSError):  # noqa: PT011 - a reset or a broken pipe, as it happens
            send_for_ever(client)


@pytest.mark.slow
def test_a_client_that_sends_no_more_is_left_soon() -> None:
    """It has heard the end of the answer, and has the time of a few round trips to close."""
    with running(max_body_bytes=LIMIT, header_timeout_s=1) as edge, edge.client() as client:
        client.sendall(b"POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (1 << 40))
        received = b""
        while piece := client.recv(4096):
            received += piece
        assert received.startswith(b"HTTP/1.1 413 ")
        assert edge.call(_closed(edge))


def send_for_ever(client: socket.socket) -> None:
    """Send until the server refuses it."""
    while True:
        client.sendall(bytes(1024))


async def _closed(edge: Running) -> bool:
    """Wait until the server has no connection."""
    await reached(lambda: not edge.server._state.connections)
    return True
