"""Slow clients of one backend, in both directions: its slots are free for the others."""

from __future__ import annotations

import http.client
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

import serve_bridge as serve
from serve_bridge.adapters.starlette.extension import ServeBridge
from serve_bridge.adapters.wsgi import application as wsgi
from serve_bridge.testing.servers import serve_asgi, serve_wsgi
from tests.faults.report.figures import note

SLOW: Final = 64
PROBES: Final = 20
LARGE: Final = 4 << 20
PAUSE_S: Final = 0.2

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]


def answer(request: Any) -> bytes:
    """Answer with more than the sockets take, or a little."""
    return bytes(LARGE) if request.query_params.get("large") else b"ok"


class Data:
    """A backend whose method gets the parsed body."""

    async def take(self, data: Any = None, large: str = "") -> bytes:
        """Answer as `answer` does."""
        return bytes(LARGE) if large else b"ok"


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """Read the body and answer as `answer` does."""
    environ["wsgi.input"].read()
    body = bytes(LARGE) if "large" in environ["QUERY_STRING"] else b"ok"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


@pytest.fixture(scope="module")
def client() -> Iterator[serve.Client]:
    """An instance whose backends have eight slots each."""
    client = serve.start(runtime="local", name="slow-clients", http_options={"port": 0})
    config = {"max_concurrent_queries": 8}
    client.create_backend("def", answer)
    client.create_backend("data", Data, config=config)
    client.create_backend("wsgi", serve.wsgi_app(application), config=config)
    for name in ("def", "data"):
        client.create_endpoint(name, backend=name, route=f"/{name}", methods=["GET", "POST"])
    client.create_endpoint("wsgi", backend="wsgi", route="/wsgi")
    yield client
    client.shutdown()


@pytest.fixture(scope="module")
def times() -> Iterator[dict[str, list[float]]]:
    """The seconds of all probes, without slow clients and beside them; noted at the end."""
    found: dict[str, list[float]] = {"alone": [], "beside": []}
    yield found
    if found["beside"]:
        alone, beside = (1000 * statistics.median(each) for each in found.values())
        text = f"median of {beside:.0f} ms beside {2 * SLOW} slow clients, {alone:.0f} ms without"
        note(len(found["beside"]), f"{len(found['beside'])} probes answered, {text}")


@pytest.fixture(params=["proxy", "asgi", "wsgi"])
def address(request: pytest.FixtureRequest, client: serve.Client) -> Iterator[tuple[str, int]]:
    """Host and port of the proxy, or of a web server over an app that forwards."""
    with ExitStack() as stack:
        url = client.http_urls[0]
        if request.param == "wsgi":
            options: dict[str, Any] = {"methods": ["GET", "POST"]}
            rows = {f"/{name}": {"endpoint": name, **options} for name in ("def", "wsgi")}
            rows["/data"] = {"endpoint": "data", "method_name": "take", **options}
            application = wsgi.ServeBridge(client.address, routes=rows)
            stack.callback(application.close)
            url = stack.enter_context(serve_wsgi(application))
        elif request.param == "asgi":
            bridge = ServeBridge(client.address)
            stack.callback(bridge.close)
            routes = [
                Route("/def", bridge.forward("def"), methods=["GET", "POST"]),
                Route("/data", bridge.forward("data", method_name="take"), methods=["GET", "POST"]),
                Route("/wsgi", bridge.forward("wsgi"), methods=["GET", "POST"]),
            ]
            url = stack.enter_context(serve_asgi(Starlette(routes=routes)))
        parts = urlsplit(url)
        yield parts.hostname or "", parts.port or 80


@contextmanager
def slow_clients(address: tuple[str, int], path: str, method: str) -> Iterator[None]:
    """Keep slow uploads and slow readers of *path* under way."""
    stopped = threading.Event()
    clients: list[socket.socket] = []
    for _ in range(SLOW):
        uploading = socket.create_connection(address)
        uploading.sendall(head("POST", path, method, "Content-Length: 100000") + b"x" * 100)
        reading = socket.socket()
        reading.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reading.connect(address)
        reading.sendall(head("GET", f"{path}?large=1", method))
        clients += [uploading, reading]

    def dribble() -> None:
        while not stopped.wait(PAUSE_S):
            for number, client in enumerate(clients):
                client.setblocking(False)
                client.recv(100) if number % 2 else client.send(b"x" * 100)

    thread = threading.Thread(target=_quietly, args=(dribble,))
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        for each in clients:
            each.close()


def _quietly(work: Callable[[], None]) -> None:
    try:
        work()
    except OSError:  # a client that was cut off dribbles no more
        return


def head(verb: str, path: str, method: str, *fields: str) -> bytes:
    """Return the head of a request."""
    lines = [f"{verb} {path} HTTP/1.1", "Host: localhost", f"X-Serve-Call-Method: {method}", *fields]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize(("path", "method"), [("/def", "__call__"), ("/data", "take"), ("/wsgi", "__call__")])
def test_a_probe_is_answered_beside_slow_clients(
    address: tuple[str, int], path: str, method: str, times: dict[str, list[float]]
) -> None:
    """Every one of them, although there are eight times as many slow clients as slots, each way."""
    alone, _ = probe(address, path, method)
    with slow_clients(address, path, method):
        beside, statuses = probe(address, path, method)
    assert statuses == [200] * PROBES
    times["alone"] += alone
    times["beside"] += beside


def probe(address: tuple[str, int], path: str, method: str) -> tuple[list[float], list[int]]:
    """Send requests one after the other; return their seconds and their statuses."""
    times, statuses = [], []
    for _ in range(PROBES):
        began = time.monotonic()
        connection = http.client.HTTPConnection(*address, timeout=15)
        connection.request("GET", path, headers={"X-Serve-Call-Method": method})
        statuses.append(connection.getresponse().status)
        times.append(time.monotonic() - began)
        connection.close()
    return times, statuses
