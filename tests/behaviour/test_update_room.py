"""Updates in bounded room: how many replicas run, and how many serve, while new code replaces old code."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import serve_bridge as serve
from tests.behaviour.support import backends
from tests.support.serving import Serving
from tests.support.waiting import wait_until

PAUSE_S = 0.005
"""Seconds between two calls of one thread, so that the threads of the local runtime have the processor too."""


class Ticket:
    """Takes one of a few places while it lives, like a GPU, and says its version."""

    def __init__(self, places: Path, version: str, limit: int = 100) -> None:
        self.version = version
        for number in range(limit):  # replicas may start at once
            self.place = places / f"{version}-{number}"
            with suppress(FileExistsError):
                self.place.touch(exist_ok=False)
                return
        raise RuntimeError("no more of these")

    def __call__(self, request: Any) -> str:
        """Say the version."""
        return self.version


@contextmanager
def calling(handle: serve.Handle) -> Iterator[list[str]]:
    """Call *handle* again and again; the list gets the answers, and every call must have one."""
    answers: list[str] = []
    over = threading.Event()

    def call() -> None:
        while not over.wait(PAUSE_S):
            answers.append(handle.call())

    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(call) for _ in range(2)]
        try:
            wait_until(lambda: answers)
            yield answers
        finally:
            over.set()
        for each in calls:
            each.result(30)


@contextmanager
def counting(client: serve.Client, backend: str) -> Iterator[list[tuple[int, int]]]:
    """Note again and again how many replicas of *backend* run and how many are ready."""
    seen: list[tuple[int, int]] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(PAUSE_S):
            states = list(client.status()["backends"][backend]["replicas"].values())
            seen.append((len(states), states.count("ready")))

    with ThreadPoolExecutor(1) as threads:
        looking = threads.submit(look)
        try:
            yield seen
        finally:
            over.set()
        looking.result(30)


@pytest.mark.parametrize(("surge", "unavailable"), [(0, 1), (1, 0), (1, 1)])
def test_an_update_stays_in_its_room(
    client: serve.Client, serving: Serving, tmp_path: Path, surge: int, unavailable: int
) -> None:
    """No more replicas run and no fewer serve than it says, and no call fails."""
    served = serving(Ticket, tmp_path, "v1", config={"num_replicas": 3})
    with calling(served.handle) as answers, counting(client, served.name) as seen:
        client.update_backend(served.name, Ticket, tmp_path, "v2", max_surge=surge, max_unavailable=unavailable)
        after = len(answers)
        wait_until(lambda: len(answers) > after + 20)
    assert max(running for running, _ in seen) <= 3 + surge
    assert min(ready for _, ready in seen) >= 3 - unavailable
    assert answers[after:].count("v1") <= 2  # of the two threads, each may have had one before the update ended


def test_both_versions_answer_until_the_end(client: serve.Client, serving: Serving, tmp_path: Path) -> None:
    """While the last replica of the new code starts."""

    class Gated:
        def __init__(self, directory: Path) -> None:
            number = len(list(directory.glob("started-*")))
            (directory / f"started-{number}").touch()
            if number == 1:
                wait_until((directory / "open").exists)

        def __call__(self, request: Any) -> str:
            return "v2"

    served = serving(backends.version_1, config={"num_replicas": 2, "max_surge": 1})
    with ThreadPoolExecutor(1) as threads:
        update = threads.submit(client.update_backend, served.name, Gated, tmp_path)
        wait_until((tmp_path / "started-1").exists)
        wait_until(lambda: {served.handle.call() for _ in range(20)} == {"v1", "v2"})
        shown = client.status()["backends"][served.name]["update"]
        (tmp_path / "open").touch()
        update.result(30)
    assert {served.handle.call() for _ in range(20)} == {"v2"}
    assert shown == {"state": "runs", "version": None, "wanted": 2, "new": 1, "old": 1, "failure": None}
    assert client.status()["backends"][served.name]["update"] is None


def test_the_status_shows_an_update_without_bounds_too(client: serve.Client, serving: Serving, tmp_path: Path) -> None:
    """Its new replicas serve at its end only, and a failure leaves the old ones."""
    served = serving(backends.version_1, config={"num_replicas": 2})
    with pytest.raises(serve.BackendStartError) as stopped:
        client.update_backend(served.name, Ticket, tmp_path, "v2", 0)
    update = {"state": "undone", "version": None, "wanted": 2, "new": 0, "old": 2, "failure": str(stopped.value)}
    assert client.status()["backends"][served.name]["update"] == update


def test_the_room_is_an_option_of_the_backend(client: serve.Client, serving: Serving, tmp_path: Path) -> None:
    """It holds for each update without a room of its own."""
    served = serving(Ticket, tmp_path, "v1", config={"num_replicas": 2, "max_surge": 0, "max_unavailable": 1})
    with counting(client, served.name) as seen:
        client.update_backend(served.name, Ticket, tmp_path, "v2")
    assert max(running for running, _ in seen) <= 2
    assert served.handle.call() == "v2"


def test_an_update_in_bounded_room_may_change_the_number(
    client: serve.Client, serving: Serving, tmp_path: Path
) -> None:
    """More replicas or fewer; the room is counted from the new number."""
    served = serving(Ticket, tmp_path, "v1", config={"num_replicas": 3})
    for number, version in ((1, "v2"), (3, "v3")):
        client.update_backend(served.name, Ticket, tmp_path, version, config={"num_replicas": number}, max_surge=1)
        replicas = client.status()["backends"][served.name]["replicas"]
        assert list(replicas.values()) == ["ready"] * number
        assert {served.handle.call() for _ in range(10)} == {version}


@pytest.mark.parametrize(("surge", "unavailable", "good"), [(0, 1, 0), (0, 1, 1), (0, 1, 2), (1, 0, 2)])
def test_new_code_that_fails_in_the_middle_is_undone(
    client: serve.Client, serving: Serving, tmp_path: Path, surge: int, unavailable: int, good: int
) -> None:
    """The error says how far the update came, all replicas have the old code again, and no call failed."""
    served = serving(Ticket, tmp_path, "v1", config={"num_replicas": 3})
    with calling(served.handle) as answers, counting(client, served.name) as seen:
        with pytest.raises(
            serve.BackendStartError, match=f"no more of these; the update stopped after {good} of 3 replicas, and all"
        ) as stopped:
            client.update_backend(
                served.name, Ticket, tmp_path, "v2", good, max_surge=surge, max_unavailable=unavailable
            )
        after = len(answers)
        wait_until(lambda: len(answers) > after + 20)
    assert min(ready for _, ready in seen) >= 3 - unavailable
    assert set(answers[after + 2 :]) == {"v1"}
    status = client.status()["backends"][served.name]
    assert list(status["replicas"].values()) == ["ready"] * 3
    update = {"state": "undone", "version": None, "wanted": 3, "new": 0, "old": 3, "failure": str(stopped.value)}
    assert status["update"] == update
    client.update_backend(served.name, backends.version_2)
    assert served.handle.call() == "v2"
    assert client.status()["backends"][served.name]["update"] is None


def test_a_new_replica_that_dies_during_the_update_stops_it(
    client: serve.Client, serving: Serving, tmp_path: Path
) -> None:
    """A replica that is ready is no proof; its health counts until the end."""

    class Fading:
        def __init__(self, directory: Path) -> None:
            self.healthy = True
            if (directory / "first").exists():
                wait_until((directory / "fading").exists)
                wait_until((directory / "gone").exists)
            (directory / "first").touch()
            self.directory = directory

        def check_health(self) -> None:
            if (self.directory / "fading").exists():
                (self.directory / "asked").touch()
                raise RuntimeError("it fades")

        def __call__(self, request: Any) -> str:
            return "v2"

    served = serving(backends.version_1, config={"num_replicas": 3, "health_check_period_s": 0.1})
    with ThreadPoolExecutor(1) as threads:
        update = threads.submit(client.update_backend, served.name, Fading, tmp_path, max_surge=1)
        wait_until((tmp_path / "first").exists)
        wait_until(lambda: "v2" in {served.handle.call() for _ in range(20)})
        (tmp_path / "fading").touch()
        wait_until((tmp_path / "asked").exists)
        (tmp_path / "gone").touch()
        with pytest.raises(serve.BackendStartError, match=r"the update stopped after \d of 3 replicas, and all"):
            update.result(60)
    wait_until(lambda: {served.handle.call() for _ in range(10)} == {"v1"})


def test_no_room_is_refused(client: serve.Client, serving: Serving) -> None:
    """In options, in an update of options, and in an update of code; nothing changes."""
    name = serving.name()
    with pytest.raises(ValueError, match="leave no room"):
        client.create_backend(name, backends.version_1, config={"max_surge": 0})
    served = serving(backends.version_1, config={"max_surge": 0, "max_unavailable": 1})
    before = client.status()["backends"][served.name]["replicas"]
    with pytest.raises(ValueError, match="leave no room"):
        client.update_backend_config(served.name, {"max_unavailable": 0})
    with pytest.raises(ValueError, match="leave no room"):
        client.update_backend(served.name, backends.version_2, max_unavailable=0)
    with pytest.raises(ValueError, match="max_surge must be"):
        client.update_backend(served.name, backends.version_2, max_surge=-1)
    assert client.status()["backends"][served.name]["replicas"] == before
    assert served.handle.call() == "v1"
