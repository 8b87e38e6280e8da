"""The hooks of a backend's class: reconfigure, check_health, close and `__del__`."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import serve_bridge as serve
from tests.support.serving import Serving
from tests.support.waiting import reached, wait_until, wait_until_equal


class Journal:
    """Appends a line to a file, in whichever process it is."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def note(self, entry: str) -> None:
        """Append *entry*."""
        with open(self.file, "a") as file:
            file.write(f"{entry}\n")

    def entries(self) -> list[str]:
        """Return what was noted."""
        return self.file.read_text().split() if self.file.exists() else []


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """A journal of this test's own."""
    return Journal(tmp_path / "journal")


class Closing:
    """Notes its end."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.connection = sqlite3.connect(":memory:")  # refuses every thread but the constructor's

    def __call__(self, request: Any) -> str:
        """Answer."""
        return "served"

    def close(self) -> None:
        """Close what belongs to the thread."""
        self.connection.close()
        self.journal.note("closed")

    def __del__(self) -> None:
        self.journal.note("deleted")


class ClosingAsync:
    """Notes its end, asynchronously."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    async def __call__(self, request: Any) -> str:
        """Answer."""
        return "served"

    async def close(self) -> None:
        """Note the end of a wait."""
        await asyncio.sleep(0)
        self.journal.note("closed")

    def __del__(self) -> None:
        self.journal.note("deleted")


def ending(name: str) -> Callable[[serve.Client, str], object]:
    """Return what ends a replica in the way that *name* says."""
    ways: dict[str, Callable[[serve.Client, str], object]] = {
        "delete": lambda client, backend: client.delete_backend(backend),
        "update": lambda client, backend: client.update_backend(backend, lambda request: "new"),
        "scale down": lambda client, backend: client.update_backend_config(backend, {"num_replicas": 1}),
    }
    return ways[name]


@pytest.mark.parametrize("code", [Closing, ClosingAsync])
@pytest.mark.parametrize("way", ["delete", "update", "scale down"])
def test_the_end_of_a_replica_calls_close_and_then_del(
    client: serve.Client, serving: Serving, journal: Journal, code: Any, way: str
) -> None:
    """Once, when the replica is deleted, replaced or no longer needed."""
    backend = serving.backend(code, journal, config={"num_replicas": 2 if way == "scale down" else 1})
    ending(way)(client, backend)
    assert journal.entries() == ["closed", "deleted"]


def test_shutdown_calls_close(start: Callable[..., serve.Client], journal: Journal) -> None:
    """Of every replica."""
    client = start()
    client.create_backend("b", Closing, journal, config={"num_replicas": 2})
    client.shutdown()
    assert sorted(journal.entries()) == ["closed", "closed", "deleted", "deleted"]


class ClosingBadly(Closing):
    """Fails, or hangs, when it is closed."""

    def __init__(self, journal: Journal, way: str) -> None:
        super().__init__(journal)
        self.way = way

    def close(self) -> None:
        """Fail, or wait far longer than the grace period."""
        self.journal.note(self.way)
        if self.way == "raises":
            raise ValueError("told to")
        wait_until(self.journal.file.with_suffix(".open").exists, 60)


@pytest.mark.parametrize("way", ["raises", "hangs"])
def test_a_close_that_fails_does_not_keep_the_replica(
    client: serve.Client, serving: Serving, journal: Journal, way: str
) -> None:
    """It ends within its grace period."""
    backend = serving.backend(ClosingBadly, journal, way, config={"graceful_shutdown_timeout_s": 0.2})
    client.delete_backend(backend)
    assert journal.entries()[0] == way
    assert backend not in client.list_backends()
    journal.file.with_suffix(".open").touch()  # a thread that hangs cannot be ended from outside


def test_close_cannot_be_called_from_outside(serving: Serving, journal: Journal) -> None:
    """It is the replica's to call."""
    served = serving(Closing, journal)
    with pytest.raises(serve.MethodNotExposed):
        served.handle.options(method_name="close").call()


def test_a_forced_delete_ends_replicas_at_once(client: serve.Client, serving: Serving, tmp_path: Path) -> None:
    """A request in flight fails, and the grace period is not waited for."""

    class Waiting:
        async def __call__(self, request: Any) -> None:
            (tmp_path / "begun").touch()
            await reached((tmp_path / "open").exists)

    served = serving(Waiting, config={"graceful_shutdown_timeout_s": 3600})
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(served.handle.call)
        wait_until((tmp_path / "begun").exists)
        client.delete_endpoint(served.name)
        client.delete_backend(served.name, force=True)
        with pytest.raises(serve.ServeBridgeError):
            call.result(60)
    assert served.name not in client.list_backends()


class Database:
    """Uses what belongs to the thread of its constructor in all its hooks."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:")
        self.value: Any = None

    def check_health(self) -> None:
        """Ask the database."""
        self.connection.execute("select 1")

    def reconfigure(self, value: Any) -> None:
        """Let the database say what it was given."""
        (self.value,) = self.connection.execute("select ?", (value,)).fetchone()

    def __call__(self, request: Any) -> Any:
        """Return the value."""
        self.connection.execute("select 1")
        return self.value


def test_hooks_may_use_what_the_constructor_has_made(client: serve.Client, serving: Serving) -> None:
    """They run on its thread."""
    served = serving(Database, config={"user_config": 1, "health_check_period_s": 0.05})
    client.update_backend_config(served.name, {"user_config": 2})
    assert served.handle.call() == 2
    assert client.status()["backends"][served.name]["failure"] is None


class Slow:
    """Takes a new value slowly, and blocks its loop meanwhile."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.value: Any = None

    async def __call__(self, request: Any) -> Any:
        """Return which process this is, and the value."""
        return id(self), self.value

    def reconfigure(self, value: Any) -> None:
        """Take longer than the two health probes that end a replica may."""
        self.journal.note("begin")
        if value != "first":
            time.sleep(1.5)
        self.value = value
        self.journal.note("end")


def test_a_long_reconfigure_does_not_count_as_illness(client: serve.Client, serving: Serving, journal: Journal) -> None:
    """The replica that takes the value is the one that serves afterwards."""
    config = {"user_config": "first", "health_check_period_s": 0.05, "health_check_timeout_s": 0.6}
    served = serving(Slow, journal, config=config)
    before, _ = served.handle.call()
    client.update_backend_config(served.name, {"user_config": "second"})
    assert served.handle.call() == (before, "second")


def test_replicas_are_reconfigured_one_after_another(client: serve.Client, serving: Serving, journal: Journal) -> None:
    """So that the others serve meanwhile."""
    served = serving(Slow, journal, config={"user_config": "first", "num_replicas": 2})
    client.update_backend_config(served.name, {"user_config": "second"})
    assert journal.entries()[4:] == ["begin", "end"] * 2


class Half:
    """Shows a call half of a configuration, if it can run beside `reconfigure`."""

    def __init__(self) -> None:
        self.one = self.other = 0

    def reconfigure(self, value: Any) -> None:
        """Take a new value in two steps."""
        self.one = value
        time.sleep(0.05)
        self.other = value

    def __call__(self, request: Any) -> bool:
        """Return whether the configuration is whole."""
        return bool(self.one == self.other)


def test_a_serial_backend_never_sees_half_a_configuration(client: serve.Client, serving: Serving) -> None:
    """Calls and `reconfigure` take turns."""
    served = serving(Half, config={"user_config": 1})
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(served.handle.call) for _ in range(200)]
        for value in range(2, 6):
            client.update_backend_config(served.name, {"user_config": value})
            calls += [threads.submit(served.handle.call) for _ in range(50)]
        assert all(call.result(60) for call in calls)


class Counting:
    """Counts how often it is reconfigured."""

    def __init__(self) -> None:
        self.count = 0

    def reconfigure(self, value: Any) -> None:
        """Count."""
        self.count += 1

    def __call__(self, request: Any) -> int:
        """Return the count."""
        return self.count


class Options:
    """A value whose equal copies have different pickles."""

    def __init__(self, **options: Any) -> None:
        self.__dict__.update(options)


def test_an_equal_user_config_is_no_change(client: serve.Client, serving: Serving) -> None:
    """Its content counts, not its pickle."""
    served = serving(Counting, config={"user_config": {"a": [1, 2], "o": Options(x=1, y=2)}})
    client.update_backend_config(served.name, {"user_config": {"o": Options(y=2, x=1), "a": [1, 2]}})
    assert served.handle.call() == 1
    client.update_backend_config(served.name, {"user_config": {"o": Options(y=2, x=1), "a": [1, True]}})
    assert served.handle.call() == 2


class Together:
    """Counts the calls that run at once; they end when there are enough."""

    def __init__(self) -> None:
        self.running = 0

    async def __call__(self, request: Any) -> int:
        """Wait until five run at once."""
        self.running += 1
        await reached(lambda: self.running >= 5)
        return self.running


def test_a_raised_limit_lets_in_the_calls_that_wait(client: serve.Client, serving: Serving) -> None:
    """They do not wait for the one that runs."""
    served = serving(Together, config={"max_concurrent_queries": 1})
    with ThreadPoolExecutor(5) as threads:
        calls = [threads.submit(served.handle.call) for _ in range(5)]
        client.update_backend_config(served.name, {"max_concurrent_queries": 10})
        assert [call.result(60) for call in calls] == [5] * 5


@pytest.mark.ray
def test_a_raised_limit_lets_in_the_calls_over_ray_that_wait(ray_cluster: Any) -> None:
    """For `remote` the line is in the replica."""
    client = serve.start(name="raised-limit", http_options={"location": None})
    try:
        client.create_backend("b", Together, config={"max_concurrent_queries": 1})
        client.create_endpoint("e", backend="b")
        calls = [client.get_handle("e").remote() for _ in range(5)]
        client.update_backend_config("b", {"max_concurrent_queries": 10})
        assert ray_cluster.get(calls, timeout=60) == [5] * 5
    finally:
        client.shutdown()


class Dying:
    """Ends its process while it is reconfigured."""

    def __init__(self) -> None:
        self.value: Any = None

    def reconfigure(self, value: Any) -> None:
        """Take a value, or die of it."""
        if value == "bad":
            os._exit(3)
        self.value = value

    def __call__(self, request: Any) -> Any:
        """Return the value."""
        return self.value


class Model:
    """A model that is part of a cycle, as most are."""

    alive = 0

    def __init__(self) -> None:
        self.itself = self
        Model.alive += 1

    def __del__(self) -> None:
        Model.alive -= 1


class Swapping:
    """Replaces its model."""

    def __init__(self) -> None:
        self.model = Model()

    def reconfigure(self, value: Any) -> None:
        """Load another one."""
        self.model = Model()

    def __call__(self, request: Any) -> int:
        """Return how many models there are once garbage was collected."""
        import gc

        gc.collect()
        return type(self.model).alive


@pytest.mark.ray
def test_on_ray_a_replica_may_die_and_models_may_go(ray_cluster: Any) -> None:
    """A death in `reconfigure` is the caller's error and the old value stays; a replaced model is freed."""
    client = serve.start(name="dying-hook", http_options={"location": None})
    try:
        client.create_backend("b", Dying, config={"user_config": "good", "num_replicas": 2})
        client.create_endpoint("e", backend="b")
        with pytest.raises(serve.ReplicaDied, match="reconfigure"):
            client.update_backend_config("b", {"user_config": "bad"})
        assert client.get_backend_config("b").user_config == "good"
        wait_until_equal(lambda: list(client.status()["backends"]["b"]["replicas"].values()), ["ready"] * 2, 60)
        assert {client.get_handle("e").call() for _ in range(20)} == {"good"}
        client.create_backend("swapping", Swapping, config={"user_config": 1})
        client.create_endpoint("swapping", backend="swapping")
        client.update_backend_config("swapping", {"user_config": 2})
        assert client.get_handle("swapping").call() == 1
    finally:
        client.shutdown()
