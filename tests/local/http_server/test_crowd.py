"""An edge server with fewer places than its clients want: honest clients are served, whatever the others do."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from serve_bridge.config.http_options import HTTPOptions
from tests.support.certificates import Certificate, make_certificate
from tests.support.edge_server import Running, read_all, running, statuses
from tests.support.waiting import wait_until

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
PLACES = 20
PROBES = 4

pytestmark = pytest.mark.timeout(60)


class Crowd:
    """Clients in a thread that keep connections open, and open each one again when the server closes it."""

    def __init__(self, edge: Running, count: int, say: Callable[[socket.socket], object], host: str) -> None:
        self.opened = self.closed = 0
        self._edge, self._count, self._say, self._host = edge, count, say, host
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Crowd:
        self._thread.start()
        wait_until(lambda: self.opened >= self._count)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(10)

    def _run(self) -> None:
        clients: set[socket.socket] = set()
        while not self._stopped.is_set():
            while len(clients) < self._count:
                clients.add(self._open())
            gone, _, _ = select.select(clients, [], [], 0.02)
            for client in gone:
                client.close()
                clients.discard(client)
                self.closed += 1
        for client in clients:
            client.close()

    def _open(self) -> socket.socket:
        client = socket.create_connection(self._edge.address, source_address=(self._host, 0))
        with contextlib.suppress(OSError):
            self._say(client)
        self.opened += 1
        return client


def slow_head(client: socket.socket) -> None:
    """Begin a request that never ends."""
    client.sendall(GET + b"X-Slow: ")


def silence(client: socket.socket) -> None:
    """Say nothing, not even hello."""


def kept_alive(client: socket.socket) -> None:
    """Stay after an answer."""
    client.sendall(GET + b"\r\n")
    client.settimeout(10)
    client.recv(4096)


def slow_body(client: socket.socket) -> None:
    """Begin a body that never ends."""
    client.sendall(b"POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")


def probe(edge: Running) -> list[list[int]]:
    """Return the statuses that honest clients get, one after the other."""
    return [statuses(edge.exchange(LAST)) for _ in range(PROBES)]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """One for localhost."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.mark.slow
@pytest.mark.parametrize("say", [slow_head, silence, kept_alive])
def test_clients_that_say_nothing_give_way(say: Callable[[socket.socket], object]) -> None:
    """Every probe is answered although there are twice as many slow clients as places."""
    patient: dict[str, Any] = {"header_timeout_s": 600, "keep_alive_timeout_s": 600}
    with running(max_connections=PLACES, **patient) as edge, Crowd(edge, 2 * PLACES, say, "127.0.0.1"):
        assert probe(edge) == [[200]] * PROBES


@pytest.mark.slow
def test_stalled_handshakes_give_way(certificate: Certificate) -> None:
    """They have no protocol yet that could have a deadline."""
    options = {**certificate.options, "header_timeout_s": 600, "max_connections": PLACES}
    with (
        running(tls=certificate.client, **options) as edge,
        Crowd(edge, 2 * PLACES, silence, "127.0.0.1"),
    ):
        assert probe(edge) == [[200]] * PROBES


def test_one_client_cannot_take_all_places() -> None:
    """Requests that are being served do not give way, so one address holds only its share of them."""
    slow: dict[str, Any] = {"body_timeout_s": 600, "request_timeout_s": 600}
    with (
        running(max_connections=PLACES, **slow) as edge,
        Crowd(edge, 2 * PLACES, slow_body, "127.0.0.2") as crowd,
    ):
        wait_until(lambda: crowd.closed > 0)
        assert probe(edge) == [[200]] * PROBES


def test_a_trusted_proxy_has_no_share() -> None:
    """All its clients come from one address."""
    options: dict[str, Any] = {
        "max_connections": PLACES,
        "max_connections_per_client": 1,
        "trusted_proxies": ["127.0.0.1"],
    }
    with running(**options) as edge, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(edge.client()) for _ in range(5)]
        for client in clients:
            client.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
            assert edge.app.started.wait(30)
            edge.app.started.clear()
        edge.loop.call_soon_threadsafe(edge.app.go.set)
        for client in clients:
            client.settimeout(10)
            assert client.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_a_client_above_its_share_is_refused() -> None:
    """While its connections are busy, a further request is a 503; afterwards it is served again."""
    with running(max_connections=PLACES, max_connections_per_client=1) as edge, edge.client() as busy:
        busy.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert edge.app.started.wait(30)
        assert statuses(edge.exchange(LAST)) == [503]
        edge.loop.call_soon_threadsafe(edge.app.go.set)
        assert statuses(read_all(busy)) == [200]
        assert statuses(edge.exchange(LAST)) == [200]


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
def test_deadlines_shrink_as_the_server_fills(certificate: Certificate, over_tls: bool) -> None:
    """A client that says nothing is closed long before its deadline, though nobody wants its place."""
    options: dict[str, Any] = {"header_timeout_s": 8, "max_connections": 4, "max_connections_per_client": 4}
    if over_tls:
        options |= certificate.options
    with running(**options) as edge, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(edge.address)) for _ in range(4)]
        for client in clients[:2]:
            client.settimeout(6)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""


def test_the_share_is_an_option() -> None:
    """It is a whole number, or None for the default."""
    assert HTTPOptions().max_connections_per_client is None
    with pytest.raises(ValueError, match="max_connections_per_client"):
        HTTPOptions(max_connections_per_client=0)
