"""What `status` says of failures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import serve_bridge as serve
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client() -> Iterator[serve.Client]:
    """An instance without a proxy."""
    client = serve.start(runtime="local", name="status", http_options={"host": None})
    yield client
    client.shutdown()


class Breakable:
    """Neither starts nor is well while there is a certain file."""

    def __init__(self, broken: str) -> None:
        self._broken = Path(broken)
        self.check_health()

    def check_health(self) -> None:
        """Raise while there is the file."""
        if self._broken.exists():
            raise RuntimeError("it is broken")

    def __call__(self, request: Any) -> None:
        """Do nothing."""


class Echo:
    """Returns its request."""

    def __call__(self, request: Any) -> Any:
        """Return *request*."""
        return request


def test_a_failure_that_is_over_is_not_shown(client: serve.Client, tmp_path: Path) -> None:
    """It is over when the replicas have lasted for some seconds."""
    broken = tmp_path / "broken"

    def described() -> dict[str, Any]:
        found: dict[str, Any] = client.status()["backends"]["b"]
        return found

    client.create_backend("b", Breakable, str(broken), config={"health_check_period_s": 0.1})
    assert described()["failure"] is None
    broken.touch()
    assert "it is broken" in wait_until(lambda: described()["failure"])
    broken.unlink()
    wait_until(lambda: list(described()["replicas"].values()) == ["ready"])
    wait_until(lambda: described()["failure"] is None, timeout_s=30)
    assert described()["failed"] is False


def test_the_status_consists_of_plain_values(client: serve.Client) -> None:
    """So JSON can represent all of it, and every part has the keys that users rely on."""
    client.create_backend("plain", Echo)
    client.create_endpoint("plain", backend="plain", route="/plain", methods=["GET", "PUT"])
    status = client.status()
    assert json.loads(json.dumps(status)) == status
    assert list(status) == [
        "name", "nodes", "http_urls", "proxies", "table_version", "backends", "endpoints", "deployments"
    ]  # fmt: skip
    assert list(status["backends"]["plain"]) == [
        "wanted", "replicas", "failure", "failed", "last_end", "owner", "version", "deployed_at", "fingerprint",
        "declared", "search_path", "update",
    ]  # fmt: skip
    assert status["endpoints"]["plain"] == {
        "route": "/plain",
        "methods": ["GET", "PUT"],
        "timeout_s": None,
        "traffic": {"plain": 1.0},
        "shadows": {},
        "owner": None,
        "version": None,
        "deployed_at": None,
    }
    assert list(status["nodes"].values()) == [{"address": "127.0.0.1", "proxy": None, "failure": None}]
