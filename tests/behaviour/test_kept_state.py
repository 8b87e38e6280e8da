"""The kept state: what users asked for outlives the instance, and comes back with the next start of its name."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import serve_bridge as serve
from serve_bridge.client.client import link_of
from serve_bridge.instance.operations import Operation
from tests.behaviour.support import backends
from tests.support.waiting import wait_until, wait_until_equal

Start = Callable[..., serve.Client]


def get(client: serve.Client, path: str) -> httpx.Response:
    """Return the answer of the proxy of *client* to a GET of *path*."""
    return httpx.get(client.http_urls[0] + path, trust_env=False, timeout=30)


def fill(client: serve.Client) -> None:
    """Make two backends, an endpoint with a split, and a shadow."""
    client.create_backend("one", backends.version_1, config={"num_replicas": 2, "max_queued_queries": 7})
    client.create_backend("two", backends.version_2)
    client.create_endpoint("e", backend="one", route="/e", timeout_s=9)
    client.set_traffic("e", {"one": 0.75, "two": 0.25})
    client.shadow_traffic("e", "two", 0.5)


def wanted(client: serve.Client) -> Any:
    """Return everything that users asked for, as the instance tells it."""
    status = client.status()
    return client.list_endpoints(), client.list_backends(), [each["owner"] for each in status["backends"].values()]


def test_everything_is_restored(start: Start, tmp_path: Path, names: Callable[[str], str]) -> None:
    """Backends with options and code, endpoints, traffic and shadows, without a deployment."""
    name = names("kept")
    first = start(name=name, state=tmp_path)
    fill(first)
    before = wanted(first)
    first.shutdown(forget=False)
    second = start(name=name, state=tmp_path)
    assert wanted(second) == before
    wait_until_equal(lambda: get(second, "/-/ready").status_code, 200)
    assert {second.get_handle("e").call() for _ in range(50)} == {"v1", "v2"}
    assert get(second, "/e").text in ("v1", "v2")


def test_a_declared_backend_keeps_its_owner(start: Start, tmp_path: Path, names: Callable[[str], str]) -> None:
    """The next deployment of its project finds nothing to change."""
    name = names("kept")

    @serve.backend(route="/mine")
    def mine(request: Any) -> str:
        return "mine"

    first = start(name=name, state=tmp_path)
    first.deploy(mine, project="shop")
    first.shutdown(forget=False)
    second = start(name=name, state=tmp_path)
    assert second.deploy(mine, project="shop").changes == ()
    assert second.status()["backends"]["mine"]["owner"] == "shop"


def test_restored_routes_answer_503_until_their_replicas_are_ready(
    start: Start, tmp_path: Path, names: Callable[[str], str]
) -> None:
    """With Retry-After, never 404: the proxy knows the routes from its first request on."""
    name, gate = names("kept"), tmp_path / "gate"
    gate.touch()
    first = start(name=name, state=tmp_path)
    first.create_backend("slow", backends.WaitsForFile, str(gate))
    first.create_endpoint("slow", backend="slow", route="/slow")
    first.shutdown(forget=False)
    gate.unlink()
    second = start(name=name, state=tmp_path)
    answer = get(second, "/slow")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    ready = get(second, "/-/ready")
    assert ready.status_code == 503
    assert "slow" in ready.text
    gate.touch()
    wait_until_equal(lambda: get(second, "/-/ready").status_code, 200)
    assert get(second, "/slow").status_code == 200


def test_ready_waits_for_every_backend_of_a_split(start: Start, tmp_path: Path, names: Callable[[str], str]) -> None:
    """A split with one backend of two would send a part of the requests nowhere."""
    name, gate = names("kept"), tmp_path / "gate"
    gate.touch()
    first = start(name=name, state=tmp_path)
    first.create_backend("fast", backends.version_1)
    first.create_backend("slow", backends.WaitsForFile, str(gate))
    first.create_endpoint("e", backend="fast", route="/e")
    first.set_traffic("e", {"fast": 0.5, "slow": 0.5})
    first.shutdown(forget=False)
    gate.unlink()
    second = start(name=name, state=tmp_path)
    wait_until(lambda: list(second.status()["backends"]["fast"]["replicas"].values()) == ["ready"])
    assert "backend slow, which is being restored" in get(second, "/-/ready").text
    gate.touch()
    wait_until_equal(lambda: get(second, "/-/ready").status_code, 200)


def test_a_backend_that_cannot_start_does_not_stop_the_others(
    start: Start, tmp_path: Path, names: Callable[[str], str]
) -> None:
    """Its reason is in the status, its route answers 503, and the other routes work."""
    name, gate = names("kept"), tmp_path / "gate"
    gate.touch()
    first = start(name=name, state=tmp_path)
    first.create_backend("good", backends.version_1)
    first.create_backend("bad", backends.NeedsFile, str(gate))
    for each in ("good", "bad"):
        first.create_endpoint(each, backend=each, route=f"/{each}")
    first.shutdown(forget=False)
    gate.unlink()
    second = start(name=name, state=tmp_path)
    wait_until(lambda: "FileNotFoundError" in str(second.status()["backends"]["bad"]["failure"]), timeout_s=60)
    wait_until_equal(lambda: get(second, "/good").status_code, 200, timeout_s=60)
    assert [get(second, f"/{each}").status_code for each in ("good", "bad")] == [200, 503]
    assert "bad" in get(second, "/-/ready").text
    wait_until(lambda: second.status()["backends"]["bad"]["failed"], timeout_s=90)  # after five tries
    gate.touch()
    wait_until_equal(lambda: get(second, "/bad").status_code, 200, timeout_s=60)


def test_shutdown_forgets(start: Start, tmp_path: Path, names: Callable[[str], str]) -> None:
    """Nothing of the state is left, unless the caller keeps it."""
    name = names("kept")
    first = start(name=name, state=tmp_path)
    fill(first)
    assert (tmp_path / name / "state.json").exists()
    first.shutdown()
    assert list(tmp_path.iterdir()) == []
    assert start(name=name, state=tmp_path).list_backends() == {}


def test_a_fresh_start_is_empty(start: Start, tmp_path: Path, names: Callable[[str], str]) -> None:
    """The old state is moved aside."""
    name = names("kept")
    first = start(name=name, state=tmp_path)
    fill(first)
    first.shutdown(forget=False)
    second = start(name=name, state=tmp_path, fresh=True)
    assert (second.list_backends(), second.list_endpoints()) == ({}, {})
    assert "one" in json.loads((tmp_path / name / "before-fresh" / "state.json").read_text())["backends"]


def test_an_instance_without_a_state_keeps_none(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance that ends with its process keeps none by default."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    fill(start())
    assert list(tmp_path.iterdir()) == []


def test_a_torn_state_is_refused(start: Start, tmp_path: Path, names: Callable[[str], str]) -> None:
    """With its path and the way out; nothing is started or changed."""
    name = names("kept")
    path = tmp_path / name / "state.json"
    first = start(name=name, state=tmp_path)
    fill(first)
    first.shutdown(forget=False)
    path.write_bytes(path.read_bytes()[:100])
    files = {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()}
    with pytest.raises(serve.ConfigError, match=rf"{path} cannot be used: it is incomplete.*previous.json"):
        start(name=name, state=tmp_path)
    assert {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()} == files
    (path.parent / "previous.json").rename(path)
    second = start(name=name, state=tmp_path)
    assert list(second.list_backends()) == ["one", "two"]
    second.shutdown(forget=False)
    path.write_bytes(b"torn")
    assert start(name=name, state=tmp_path, fresh=True).list_backends() == {}
    assert (path.parent / "before-fresh" / "state.json").read_bytes() == b"torn"


def test_a_start_that_fails_leaves_the_state(
    start: Start, tmp_path: Path, names: Callable[[str], str], client: serve.Client
) -> None:
    """Here the port of the proxy is taken."""
    name, taken = names("kept"), int(client.http_urls[0].rpartition(":")[2])
    first = start(name=name, state=tmp_path)
    fill(first)
    first.shutdown(forget=False)
    before = (tmp_path / name / "state.json").read_bytes()
    with pytest.raises(OSError, match=str(taken)):
        start(name=name, state=tmp_path, http_options={"port": taken})
    with pytest.raises(OSError, match=str(taken)):
        start(name=name, state=tmp_path, listen=f"127.0.0.1:{taken}")
    assert (tmp_path / name / "state.json").read_bytes() == before
    assert list(start(name=name, state=tmp_path).list_backends()) == ["one", "two"]


def test_two_instances_cannot_keep_one_state(
    start: Start, tmp_path: Path, names: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second start names the directory and the way out, and leaves the first instance as it is."""
    from serve_bridge.state.state_files import StateFiles

    name = names("kept")
    other = StateFiles(tmp_path / name)
    other.lock()
    try:
        with pytest.raises(serve.ConfigError, match=rf"{tmp_path / name} is in use .*--state"):
            start(name=name, state=tmp_path)
    finally:
        other.close()
    start(name=name, state=tmp_path)


def test_another_state_directory_is_a_difference(start: Start, tmp_path: Path, names: Callable[[str], str]) -> None:
    """`serve-bridge start` does not take an instance for the one that it was asked for."""
    name = names("kept")
    link = link_of(start(name=name, state=tmp_path))
    http, own = serve.HTTPOptions(port=0), str(tmp_path / name)
    assert link.operate(Operation.DIFFERENCES, http, False, own) == []
    assert link.operate(Operation.DIFFERENCES, http, False, "/other") == [f"state is {own}, not /other"]
    assert link.operate(Operation.DIFFERENCES, http, False, None) == [f"state is {own}, not False"]


@pytest.mark.parametrize("state", ["", 5, ["x"]])
def test_a_bad_state_option_is_named(start: Start, state: Any) -> None:
    """With what it may be."""
    with pytest.raises(serve.ConfigError, match="state must be a directory, or False"):
        start(state=state)


def test_a_change_that_cannot_be_kept_is_refused(start: Start, tmp_path: Path, names: Callable[[str], str]) -> None:
    """It changes nothing, and works again once the directory can be written."""
    name = names("kept")
    client = start(name=name, state=tmp_path)
    fill(client)
    before = wanted(client)
    code = tmp_path / name / "code"
    code.rename(tmp_path / "moved")
    code.touch()  # as a full or read-only disk would, this refuses new code
    with pytest.raises(OSError, match=rf"the state in {tmp_path / name} cannot be written"):
        client.create_backend("three", backends.version_1)
    with pytest.raises(OSError, match=rf"the state in {tmp_path / name} cannot be written"):
        client.set_traffic("e", {"one": 1.0})
    with pytest.raises(OSError, match=rf"the state in {tmp_path / name} cannot be written"):
        client.update_backend("one", backends.version_2)
    assert wanted(client) == before
    wait_until_equal(lambda: list(client.status()["backends"]["one"]["replicas"].values()), ["ready"] * 2)
    assert "three" not in client.status()["backends"]
    wait_until_equal(lambda: [each.name for each in threading.enumerate() if "-three-" in each.name], [])
    code.unlink()
    (tmp_path / "moved").rename(code)
    client.create_backend("three", backends.version_1)
    assert "three" in client.list_backends()
