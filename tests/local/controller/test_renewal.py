"""The replacement of the running processes by new ones of the same code and options, as an upgrade makes it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

import serve_bridge as serve
from serve_bridge.client.client import link_of
from serve_bridge.instance.operations import Operation


class Unlucky:
    """Starts as long as the class says so."""

    starts = True

    def __init__(self) -> None:
        if not Unlucky.starts:
            raise RuntimeError("no model here")

    def __call__(self, request: object) -> str:
        """Answer."""
        return "here"


@pytest.fixture(scope="module")
def client() -> Iterator[serve.Client]:
    """An instance with two proxies on one port, and two replicas."""
    client = serve.start(runtime="local", name="renewed", http_options={"port": 0, "proxies_per_node": 2})
    client.create_backend("b", "tests.local.controller.test_renewal:Unlucky", config={"num_replicas": 2})
    client.create_endpoint("b", backend="b", route="/b")
    yield client
    client.shutdown()


def test_each_replica_gets_a_successor(client: serve.Client) -> None:
    """The options and the owner of the backend stay."""
    before = client.status()["backends"]["b"]
    link_of(client).operate(Operation.RENEW_BACKEND, "b")
    after = client.status()["backends"]["b"]
    assert len(after["replicas"]) == 2
    assert after["replicas"].keys().isdisjoint(before["replicas"])
    changing = dict.fromkeys(("replicas", "last_end", "update"))
    assert {**after, **changing} == {**before, **changing}


def test_a_backend_that_cannot_start_keeps_its_replicas(client: serve.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """They still serve."""
    from tests.local.controller.test_renewal import Unlucky as Served  # the class that replicas import

    before = client.status()["backends"]["b"]["replicas"]
    monkeypatch.setattr(Served, "starts", False)
    with pytest.raises(serve.BackendStartError, match="no model here"):
        link_of(client).operate(Operation.RENEW_BACKEND, "b")
    assert client.status()["backends"]["b"]["replicas"] == before
    assert client.get_handle("b").call() == "here"


def test_each_proxy_gets_a_successor_on_the_same_port(client: serve.Client) -> None:
    """The port is never closed."""
    before = client.status()
    url = urlsplit(before["http_urls"][0])
    ended, refused = threading.Event(), []

    def connect() -> None:
        while not ended.wait(0.001):
            try:
                socket.create_connection((url.hostname, url.port)).close()
            except OSError as error:
                refused.append(error)

    connecting = threading.Thread(target=connect)
    connecting.start()
    link_of(client).operate(Operation.RENEW_PROXIES)
    ended.set()
    connecting.join()
    after = client.status()
    assert refused == []
    assert (len(after["proxies"]), after["http_urls"]) == (2, before["http_urls"])
    assert after["proxies"].keys().isdisjoint(before["proxies"])
    assert httpx.get(f"{before['http_urls'][0]}/b", trust_env=False, timeout=30).text == "here"
