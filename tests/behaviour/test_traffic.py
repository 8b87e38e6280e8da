"""Traffic policies: splits, shard keys and shadows."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import serve_bridge as serve
from tests.behaviour.support import backends
from tests.support.serving import Served, Serving
from tests.support.waiting import wait_until, wait_until_equal

KEYS = [f"user-{n}" for n in range(200)]


@pytest.fixture(scope="module")
def two(module_serving: Serving) -> tuple[Served, str]:
    """An endpoint over version 1, and version 2 beside it."""
    return module_serving(backends.version_1), module_serving.backend(backends.version_2)


@pytest.fixture(autouse=True)
def as_it_was(client: serve.Client, two: tuple[Served, str]) -> Iterator[None]:
    """Everything goes to version 1 before each test."""
    client.set_traffic(two[0].name, {two[0].name: 1.0})
    yield
    client.shadow_traffic(two[0].name, two[1], 0)


def split(client: serve.Client, two: tuple[Served, str], share: float) -> None:
    """Give version 2 a *share*."""
    client.set_traffic(two[0].name, {two[0].name: 1 - share, two[1]: share})


def test_a_split_is_followed(client: serve.Client, two: tuple[Served, str]) -> None:
    """90/10 over 1000 calls is 10 % within 4 sigma, 0.95 % each."""
    split(client, two, 0.1)
    with ThreadPoolExecutor(8) as threads:
        answers = Tally(threads.map(lambda _: two[0].handle.call(), range(1000)))
    assert 60 <= answers["v2"] <= 140


def test_a_split_is_followed_over_http(client: serve.Client, two: tuple[Served, str], http: httpx.Client) -> None:
    """By the same policy."""
    split(client, two, 0.5)
    answers = Tally(http.get(two[0].route).text for _ in range(400))
    assert 160 <= answers["v2"] <= 240


def test_a_weight_of_0_gets_nothing(client: serve.Client, two: tuple[Served, str]) -> None:
    """Nor does a backend that is not named."""
    split(client, two, 1.0)
    assert {two[0].handle.call() for _ in range(50)} == {"v2"}
    client.set_traffic(two[0].name, {two[0].name: 1.0})
    assert {two[0].handle.call() for _ in range(50)} == {"v1"}


def test_set_traffic_is_in_force_when_it_returns(
    client: serve.Client, two: tuple[Served, str], http: httpx.Client
) -> None:
    """For handles and proxies."""
    for share, version in [(1.0, "v2"), (0.0, "v1")] * 10:
        split(client, two, share)
        assert (two[0].handle.call(), http.get(two[0].route).text) == (version, version)


def test_a_change_of_the_split_keeps_shadows(client: serve.Client, two: tuple[Served, str]) -> None:
    """They are another matter."""
    client.shadow_traffic(two[0].name, two[1], 0.25)
    split(client, two, 0.5)
    listed = client.list_endpoints()[two[0].name]
    assert (listed["traffic"], listed["shadows"]) == ({two[0].name: 0.5, two[1]: 0.5}, {two[1]: 0.25})


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ({}, "at least one"),
        ({"V1": 0.5, "V2": 0.4}, "sum"),
        ({"V1": 1.5, "V2": -0.5}, "from 0 to 1"),
        ({"V1": float("nan")}, "nan"),
        ({"V1": 0.5, "missing": 0.5}, "missing"),
        ({"V1": True}, "True"),
    ],
    ids=str,
)
def test_bad_weights_leave_the_old_split(
    client: serve.Client, two: tuple[Served, str], weights: dict[str, float], text: str
) -> None:
    """They are a ValueError that says what is wrong."""
    split(client, two, 0.25)
    before = client.list_endpoints()
    known = {"V1": two[0].name, "V2": two[1]}
    with pytest.raises(ValueError, match=text):
        client.set_traffic(two[0].name, {known.get(name, name): weight for name, weight in weights.items()})
    assert client.list_endpoints() == before


def test_traffic_of_an_unknown_endpoint(client: serve.Client, two: tuple[Served, str]) -> None:
    """Is an EndpointNotFound, a ValueError too."""
    with pytest.raises(serve.EndpointNotFound, match="'missing'") as caught:
        client.set_traffic("missing", {two[1]: 1.0})
    assert isinstance(caught.value, ValueError)
    with pytest.raises(serve.EndpointNotFound, match="'missing'"):
        client.shadow_traffic("missing", two[1], 0.5)


# Shard keys


def chosen(served: Served, keys: list[str]) -> dict[str, str]:
    """Return which version answers each key over a handle."""
    return {key: served.handle.options(shard_key=key).call() for key in keys}


def test_a_shard_key_is_sticky(client: serve.Client, two: tuple[Served, str]) -> None:
    """Every call with it goes to one backend; the keys are spread by weight."""
    split(client, two, 0.5)
    first = chosen(two[0], KEYS)
    assert chosen(two[0], KEYS) == first
    assert 60 <= Tally(first.values())["v2"] <= 140


def test_a_shard_key_means_the_same_over_http(
    client: serve.Client, two: tuple[Served, str], http: httpx.Client
) -> None:
    """The header is X-SERVE-SHARD-KEY."""
    split(client, two, 0.5)
    over_http = {key: http.get(two[0].route, headers={"X-SERVE-SHARD-KEY": key}).text for key in KEYS}
    assert over_http == chosen(two[0], KEYS)


def test_only_the_changed_share_of_keys_moves(client: serve.Client, two: tuple[Served, str]) -> None:
    """From 50/50 to 25/75, keys go from version 1 to 2 and none the other way."""
    split(client, two, 0.5)
    before = chosen(two[0], KEYS)
    split(client, two, 0.75)
    after = chosen(two[0], KEYS)
    moved = {(before[key], after[key]) for key in KEYS if before[key] != after[key]}
    assert moved == {("v1", "v2")}


# Shadows


@pytest.fixture
def shadow(serving: Serving, tmp_path: Path) -> tuple[str, Any]:
    """A shadow that writes down what it gets, and a function that reads it."""
    file = tmp_path / "entries"
    file.touch()
    return serving.backend(backends.Journal, file), lambda: sorted(file.read_text().split())


def test_a_shadow_gets_copies(client: serve.Client, two: tuple[Served, str], shadow: Any) -> None:
    """And the caller gets the primary's answer."""
    client.shadow_traffic(two[0].name, shadow[0], 1.0)
    assert {two[0].handle.call(f"n{n}") for n in range(10)} == {"v1"}
    wait_until_equal(shadow[1], sorted(f"n{n}" for n in range(10)))


def test_a_shadow_gets_copies_over_http(
    client: serve.Client, two: tuple[Served, str], shadow: Any, http: httpx.Client
) -> None:
    """As over handles."""
    client.shadow_traffic(two[0].name, shadow[0], 1.0)
    assert http.get(two[0].route, params={"entry": "copied"}).text == "v1"
    wait_until_equal(shadow[1], ["copied"])


def test_shadows_are_drawn_independently(
    client: serve.Client, two: tuple[Served, str], serving: Serving, tmp_path: Path
) -> None:
    """Two shadows of one half each share about a quarter of the requests."""
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        client.shadow_traffic(two[0].name, serving.backend(backends.Journal, file), 0.5)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(two[0].handle.call, range(240)))  # more at once would be dropped, if no shadow runs

    def entries() -> list[int]:
        first, second = (set(file.read_text().split()) if file.exists() else set() for file in files)
        return [len(first), len(second), 2 * len(first & second)]

    wait_until(lambda: min(entries()) >= 75)
    assert max(entries()) <= 165


def test_a_shadow_of_0_is_removed(client: serve.Client, two: tuple[Served, str], shadow: Any) -> None:
    """So it can be deleted then."""
    client.shadow_traffic(two[0].name, shadow[0], 1.0)
    client.shadow_traffic(two[0].name, shadow[0], 0)
    assert client.list_endpoints()[two[0].name]["shadows"] == {}
    client.delete_backend(shadow[0])


@pytest.mark.parametrize("proportion", [-0.1, 1.1, float("nan"), True, "0.5", None], ids=repr)
def test_a_bad_proportion_is_refused(client: serve.Client, two: tuple[Served, str], proportion: Any) -> None:
    """It is a TypeError, and nothing has changed."""
    with pytest.raises(TypeError, match="share of shadow"):
        client.shadow_traffic(two[0].name, two[1], proportion)
    assert client.list_endpoints()[two[0].name]["shadows"] == {}


def test_a_shadow_that_is_unknown_is_refused(client: serve.Client, two: tuple[Served, str]) -> None:
    """Nothing has changed."""
    with pytest.raises(serve.BackendNotFound, match="'missing'"):
        client.shadow_traffic(two[0].name, "missing", 0.5)
    assert client.list_endpoints()[two[0].name]["shadows"] == {}


def raising(request: Any) -> None:
    """Fail."""
    raise RuntimeError("the shadow's own trouble")


def test_a_shadow_that_raises_changes_nothing(client: serve.Client, two: tuple[Served, str], serving: Serving) -> None:
    """The primary's caller never learns of it."""
    client.shadow_traffic(two[0].name, serving.backend(raising), 1.0)
    assert {two[0].handle.call() for _ in range(20)} == {"v1"}


def test_a_shadow_that_hangs_changes_nothing(
    client: serve.Client, two: tuple[Served, str], serving: Serving, tmp_path: Path
) -> None:
    """It is left behind, and what is too much for it is dropped."""
    options = {"max_concurrent_queries": 1, "max_queued_queries": 2, "graceful_shutdown_timeout_s": 1}
    client.shadow_traffic(two[0].name, serving.backend(backends.Gate, tmp_path, config=options), 1.0)
    assert {two[0].handle.call(n) for n in range(20)} == {"v1"}
    (tmp_path / "open").touch()
