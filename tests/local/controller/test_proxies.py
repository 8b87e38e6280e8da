"""The proxies of an instance: several on one node share its port."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import serve_bridge as serve
from serve_bridge.controller import proxy_probes
from serve_bridge.instance.port_keeper import socket_path
from tests.support.certificates import make_certificate
from tests.support.waiting import wait_until, wait_until_equal

_numbers = itertools.count()


class Named:
    """Names the thread of the proxy in a header of each answer. A request to `/hold` blocks the loop of its proxy."""

    def __init__(self, app: ASGIApp, held: threading.Event, free: threading.Event) -> None:
        self._app = app
        self._held = held
        self._free = free

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the header."""

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [(b"x-proxy", threading.current_thread().name.encode())]
            await send(message)

        if scope["path"] == "/hold":
            self._held.set()
            self._free.wait()
        await self._app(scope, receive, named)


@dataclass(frozen=True)
class Pair:
    """Two proxies on one port.

    Attributes:
        url: Their base URL.
        verify: What checks the certificate of the proxies.
        held: Set while one of them blocks.
        free: Ends that.
    """

    url: str
    verify: Any
    held: threading.Event
    free: threading.Event

    def get(self, path: str = "/-/live") -> httpx.Response:
        """Return the answer to a request on a new connection."""
        return httpx.get(self.url + path, trust_env=False, timeout=30, verify=self.verify)


@pytest.fixture(params=["plain", "tls"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two proxies, with and without TLS."""
    certificate = make_certificate(tmp_path_factory.mktemp("tls")) if request.param == "tls" else None
    held, free = threading.Event(), threading.Event()
    options: Any = {"port": 0, "proxies_per_node": 2, "middlewares": [Middleware(Named, held, free)]}
    options |= certificate.options if certificate else {}
    client = serve.start(runtime="local", name=f"pair-{next(_numbers)}", http_options=options)
    try:
        wait_until_equal(lambda: len(client.status()["proxies"]), 2)
        (url,) = client.http_urls  # one, although there are two proxies
        yield Pair(url, certificate.client if certificate else True, held, free)
    finally:
        free.set()
        client.shutdown()


def test_both_proxies_of_a_node_serve_its_port(pair: Pair) -> None:
    """The port was free before the first of them chose it."""
    with ThreadPoolExecutor(8) as threads:
        seen: set[str] = set()
        wait_until(
            lambda: (
                seen.update(answer.headers["x-proxy"] for answer in threads.map(pair.get, ["/-/live"] * 16))
                or len(seen) == 2
            )
        )


def test_a_proxy_that_hangs_takes_no_new_connection(pair: Pair) -> None:
    """The other one accepts all of them."""
    with ThreadPoolExecutor(1) as thread:
        hanging = thread.submit(pair.get, "/hold")
        assert pair.held.wait(20)
        assert len({pair.get().headers["x-proxy"] for _ in range(20)}) == 1
        pair.free.set()
        assert hanging.result().status_code == 404


def test_a_port_is_closed_after_the_shutdown() -> None:
    """Neither its keeper nor a proxy holds it."""
    client = serve.start(runtime="local", name="closing", http_options={"port": 0, "proxies_per_node": 2})
    (url,) = client.http_urls
    client.shutdown()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/-/live", trust_env=False, timeout=30)


@pytest.mark.slow
def test_a_port_closes_when_no_proxy_can_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then clients are refused at once. The port opens again with the next proxy."""
    for name in ("LOOK_AFTER_SILENCE_S", "END_AFTER_SILENCE_S", "END_BUSY_AFTER_SILENCE_S"):
        monkeypatch.setattr(proxy_probes, name, getattr(proxy_probes, name) / 20)
    certificate = make_certificate(tmp_path)
    held, free = threading.Event(), threading.Event()
    options: Any = {"port": 0, "middlewares": [Middleware(Named, held, free)], **certificate.options}
    client = serve.start(runtime="local", name=f"pair-{next(_numbers)}", http_options=options)
    (url,) = client.http_urls
    pair = Pair(url, certificate.client, held, free)
    content = certificate.certificate.read_bytes()
    try:
        with ThreadPoolExecutor(1) as thread:
            hanging = thread.submit(pair.get, "/hold")
            assert held.wait(20)
            certificate.certificate.write_text("")
            wait_until(lambda: [node for node in client.status()["nodes"].values() if node["failure"]])
            free.set()
            hanging.exception()
        wait_until(lambda: not is_open(url))
        certificate.certificate.write_bytes(content)
        wait_until(lambda: is_open(url))
        assert pair.get().status_code == 200
    finally:
        free.set()
        client.shutdown()


def is_open(url: str) -> bool:
    """Return whether the port of *url* is open."""
    try:
        socket.create_connection((httpx.URL(url).host, httpx.URL(url).port or 0), 5.0).close()
    except ConnectionRefusedError:
        return False
    return True


def test_paths_of_keepers_differ_by_node(tmp_path: Path) -> None:
    """Two nodes of one machine may have one directory."""
    assert socket_path(tmp_path, "a" * 56) != socket_path(tmp_path, "b" * 56)
