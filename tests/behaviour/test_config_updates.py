"""Changing the options of a running backend."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import serve_bridge as serve
from tests.behaviour.support import backends
from tests.support.serving import Serving
from tests.support.waiting import wait_until


def replicas(client: serve.Client, backend: str) -> set[str]:
    """Return the ids of a backend's replicas."""
    return set(client.status()["backends"][backend]["replicas"])


def test_an_update_changes_only_the_options_given(client: serve.Client, serving: Serving) -> None:
    """A dict or a BackendConfig, which knows which were passed to it."""
    name = serving.backend(backends.data, config={"max_concurrent_queries": 5, "threads": 2})
    client.update_backend_config(name, {"threads": 3})
    client.update_backend_config(name, serve.BackendConfig(max_queued_queries=7))
    config = client.get_backend_config(name)
    assert (config.max_concurrent_queries, config.threads, config.max_queued_queries) == (5, 3, 7)


def test_an_update_keeps_the_replicas(client: serve.Client, serving: Serving) -> None:
    """And the state of user code."""
    served = serving(backends.Counter)
    before = replicas(client, served.name)
    assert served.handle.call() == 1
    client.update_backend_config(served.name, {"max_concurrent_queries": 3})
    assert served.handle.call() == 2
    assert replicas(client, served.name) == before


def test_scaling_up_adds_replicas_beside_the_old(client: serve.Client, serving: Serving) -> None:
    """They take requests when the call returns."""
    served = serving(backends.who)
    before = replicas(client, served.name)
    client.update_backend_config(served.name, {"num_replicas": 3})
    after = replicas(client, served.name)
    assert before < after
    assert {served.handle.call() for _ in range(60)} == after


def test_scaling_down_keeps_some_of_the_old(client: serve.Client, serving: Serving) -> None:
    """The others are gone when the call returns."""
    served = serving(backends.who, config={"num_replicas": 3})
    before = replicas(client, served.name)
    client.update_backend_config(served.name, {"num_replicas": 1})
    after = replicas(client, served.name)
    assert len(after) == 1
    assert after < before
    assert {served.handle.call() for _ in range(10)} == after


def test_scaling_down_finishes_what_was_accepted(client: serve.Client, serving: Serving, tmp_path: Path) -> None:
    """No request is lost."""
    served = serving(backends.Gate, tmp_path, config={"num_replicas": 2})
    with ThreadPoolExecutor(5) as threads:
        answers = [threads.submit(served.handle.call, n) for n in range(4)]
        wait_until(lambda: len(list(tmp_path.glob("begun-*"))) == 4)
        update = threads.submit(client.update_backend_config, served.name, {"num_replicas": 1})
        (tmp_path / "open").touch()
        assert [answer.result(20) for answer in answers] == [0, 1, 2, 3]
        update.result(20)


def test_an_update_of_an_unknown_backend(client: serve.Client) -> None:
    """Is a BackendNotFound."""
    with pytest.raises(serve.BackendNotFound, match="'missing'"):
        client.update_backend_config("missing", {"threads": 2})


@pytest.mark.parametrize(
    ("update", "error", "text"),
    [
        ({"num_replica": 2}, ValueError, "did you mean 'num_replicas'"),
        ({"num_replicas": 0}, ValueError, "num_replicas must be"),
        ({"max_batch_size": 4}, ValueError, "accept_batch"),
        ({"user_config": 1}, ValueError, "reconfigure"),
        ({"exposed_methods": ["missing"]}, ValueError, "exposed_methods"),
        (None, TypeError, "config must be"),
        (5, TypeError, "BackendConfig"),
    ],
    ids=str,
)
def test_a_bad_update_changes_nothing(
    client: serve.Client, serving: Serving, update: Any, error: type[Exception], text: str
) -> None:
    """The caller is told what is wrong with it."""
    served = serving(backends.Counter)
    before = client.get_backend_config(served.name), replicas(client, served.name)
    with pytest.raises(error, match=text):
        client.update_backend_config(served.name, update)
    assert (client.get_backend_config(served.name), replicas(client, served.name)) == before
    assert served.handle.call() == 1


def test_replicas_that_cannot_be_added_leave_the_number_as_it_was(
    client: serve.Client, serving: Serving, tmp_path: Path
) -> None:
    """The old ones go on."""

    class OnceOnly:
        def __init__(self, directory: Path) -> None:
            (directory / "taken").mkdir()

        def __call__(self, request: Any) -> str:
            return "serving"

    served = serving(OnceOnly, tmp_path)
    with pytest.raises(serve.BackendStartError, match="FileExistsError"):
        client.update_backend_config(served.name, {"num_replicas": 2})
    assert client.get_backend_config(served.name).num_replicas == 1
    assert len(replicas(client, served.name)) == 1
    assert served.handle.call() == "serving"


# user_config


def test_reconfigure_is_called_after_construction(serving: Serving) -> None:
    """With the user_config that the backend was created with."""
    assert serving(backends.Configured, config={"user_config": {"a": 1}}).handle.call() == {"a": 1}


def test_reconfigure_is_called_on_every_replica(client: serve.Client, serving: Serving) -> None:
    """On later ones too."""
    served = serving(backends.Configured, config={"num_replicas": 2, "user_config": "first"})
    client.update_backend_config(served.name, {"user_config": "second"})
    client.update_backend_config(served.name, {"num_replicas": 3})
    assert {served.handle.call() for _ in range(40)} == {"second"}


def test_an_asynchronous_reconfigure_is_awaited(serving: Serving) -> None:
    """It may be `def` or `async def`."""

    class Configured:
        async def reconfigure(self, value: Any) -> None:
            self.value = value

        def __call__(self, request: Any) -> Any:
            return self.value

    assert serving(Configured, config={"user_config": 5}).handle.call() == 5


def test_reconfigure_is_called_once_a_change(client: serve.Client, serving: Serving) -> None:
    """An update of other options, or of the same value, calls nothing."""

    class Counting:
        def __init__(self) -> None:
            self.calls = 0

        def reconfigure(self, value: Any) -> None:
            self.calls += 1

        def __call__(self, request: Any) -> int:
            return self.calls

    served = serving(Counting, config={"user_config": 1})
    client.update_backend_config(served.name, {"max_concurrent_queries": 2})
    client.update_backend_config(served.name, {"user_config": 1})
    assert served.handle.call() == 1


def test_a_reconfigure_that_raises_on_update_leaves_the_old_value(client: serve.Client, serving: Serving) -> None:
    """The caller gets the error as it was raised."""
    served = serving(backends.Configured, config={"num_replicas": 2, "user_config": "good"})
    with pytest.raises(ValueError, match="refused: bad"):
        client.update_backend_config(served.name, {"user_config": "bad"})
    assert {served.handle.call() for _ in range(20)} == {"good"}
    assert client.get_backend_config(served.name).user_config == "good"


def test_a_reconfigure_that_raises_on_one_replica_is_rolled_back(
    client: serve.Client, serving: Serving, tmp_path: Path
) -> None:
    """All replicas change or none does."""

    class OneRefuses:
        def __init__(self, directory: Path) -> None:
            self.directory = directory

        def reconfigure(self, value: Any) -> None:
            if value == "new":
                (self.directory / "taken").mkdir()
            self.value = value

        def __call__(self, request: Any) -> Any:
            return self.value

    served = serving(OneRefuses, tmp_path, config={"num_replicas": 2, "user_config": "old"})
    with pytest.raises(FileExistsError):
        client.update_backend_config(served.name, {"user_config": "new"})
    assert {served.handle.call() for _ in range(20)} == {"old"}


def test_a_reconfigure_that_raises_at_the_start_is_reported(client: serve.Client, serving: Serving) -> None:
    """Nothing is left."""
    name = serving.name()
    with pytest.raises(serve.BackendStartError, match="refused: bad"):
        client.create_backend(name, backends.Configured, config={"user_config": "bad"})
    assert name not in client.list_backends()


def test_a_user_config_without_reconfigure_is_refused(client: serve.Client, serving: Serving) -> None:
    """Nobody would ever see it."""
    with pytest.raises(ValueError, match="reconfigure"):
        client.create_backend(serving.name(), backends.Counter, config={"user_config": 1})


# Limits in force


def test_max_concurrent_queries_holds_over_all_callers(serving: Serving, tmp_path: Path, http: Any) -> None:
    """Handle and proxy are different callers; together they get no more than the limit."""

    class Gauge:
        def __init__(self, directory: Path) -> None:
            self.running = self.most = 0
            self.directory = directory

        async def __call__(self, request: Any) -> int:
            import asyncio

            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(0.01)
            self.running -= 1
            return self.most

    served = serving(Gauge, tmp_path, config={"max_concurrent_queries": 2})
    with ThreadPoolExecutor(12) as threads:
        by_handle = [threads.submit(served.handle.call) for _ in range(12)]
        over_http = [threads.submit(http.get, served.route) for _ in range(12)]
        assert max(answer.result(20) for answer in by_handle) == 2
        assert {answer.result(20).status_code for answer in over_http} == {200}


def test_a_full_queue_refuses_at_once(serving: Serving, tmp_path: Path) -> None:
    """max_queued_queries=0: what cannot run now is refused, and was not started."""
    served = serving(backends.Gate, tmp_path, config={"max_concurrent_queries": 1, "max_queued_queries": 0})
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(served.handle.call, 1)
        wait_until((tmp_path / "begun-1").exists)
        with pytest.raises(serve.BackendOverloaded) as caught:
            served.handle.call(2)
        (tmp_path / "open").touch()
        assert answer.result(20) == 1
    assert caught.value.executed == "no"
    assert not (tmp_path / "begun-2").exists()


def test_a_def_backend_is_serial_by_default(serving: Serving) -> None:
    """threads=1, as the classic one was."""

    class Gauge:
        def __init__(self) -> None:
            self.running = self.most = 0

        def __call__(self, request: Any) -> int:
            import time

            self.running += 1
            self.most = max(self.most, self.running)
            time.sleep(0.01)
            self.running -= 1
            return self.most

    handle = serving(Gauge).handle
    with ThreadPoolExecutor(6) as threads:
        assert max(threads.map(lambda _: handle.call(), range(6))) == 1


def test_more_threads_run_def_code_side_by_side(serving: Serving) -> None:
    """Two requests that wait for each other both finish."""

    class Meeting:
        def __init__(self) -> None:
            import threading

            self.barrier = threading.Barrier(2, timeout=20)

        def __call__(self, request: Any) -> str:
            self.barrier.wait()
            return "met"

    handle = serving(Meeting, config={"threads": 2}).handle
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda _: handle.call(), range(2))) == ["met", "met"]
