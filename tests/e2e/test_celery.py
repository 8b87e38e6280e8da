"""Handles in the tasks of a real Celery worker, whose broker is a directory."""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import serve_bridge as serve
from tests.support.programs import kill_all, start_module
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

APP = "tests.e2e.support.apps.celery_app"
PLACES = 2
"""Requests that the slow backend runs at once."""
LIMIT_S = 60


async def echo(request: Any) -> str:
    """Return what came."""
    return f"echo {request.data}"


async def slow(request: Any) -> None:
    """Wait for ever."""
    await asyncio.Event().wait()


@pytest.fixture(scope="module")
def instance(runtime_directory: Path) -> Iterator[serve.Client]:
    """An instance in this process, with a backend that answers and one that does not."""
    client = serve.start(runtime="local", name="celery", http_options={"location": "NoServer"})
    for code, places in ((echo, 100), (slow, PLACES)):
        client.create_backend(code.__name__, code, config={"max_concurrent_queries": places})
        client.create_endpoint(code.__name__, backend=code.__name__)
    yield client
    client.shutdown()


@pytest.fixture(scope="module")
def tasks(instance: serve.Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The module of the tasks, which any worker of this file takes from one queue."""
    directory = tmp_path_factory.mktemp("queue")
    for name in ("messages", "outbox", "results", "control"):
        (directory / name).mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUEUE_DIRECTORY", str(directory))
        patch.setenv("SERVE_BRIDGE_ADDRESS", instance.address)
        yield importlib.import_module(APP)


@contextmanager
def worker(tasks: Any, pool: str, log: Path) -> Iterator[None]:
    """Run a Celery worker with two processes or threads of *pool*."""
    options = ("--pool", pool, "--concurrency", "2", "--without-gossip", "--without-mingle", "--loglevel", "INFO")
    environment = {"EVENTLET_NO_GREENDNS": "yes"}  # its DNS does not go with every dnspython
    process = start_module("celery", "--app", APP, "worker", *options, log=log, environment=environment)
    try:
        wait_until(lambda: "ready." in log.read_text() or process.poll() is not None, LIMIT_S)
        yield
    finally:
        kill_all(process)


def results(tasks: Any, calls: list[Any]) -> list[Any]:
    """Send the tasks of *calls* and return their results, in order."""
    sent = [call.delay() for call in calls]
    queue = Path(tasks.QUEUE)
    for message in (queue / "outbox").iterdir():  # whole: a worker may read a file while it is written, and drop it
        message.rename(queue / "messages" / message.name)
    return [each.get(timeout=LIMIT_S, interval=0.05) for each in sent]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_task_calls_a_handle(tasks: Any, pool: str, tmp_path: Path) -> None:
    """Each process of the worker connects with its first call."""
    with worker(tasks, pool, tmp_path / "log"):
        answers = results(tasks, [tasks.ask.s(f"task {number}") for number in range(8)])
    assert [text for text, _ in answers] == [f"echo task {number}" for number in range(8)]
    assert os.getpid() not in {process for _, process in answers}


def test_a_soft_time_limit_ends_a_call_and_later_calls_work(tasks: Any, instance: serve.Client, tmp_path: Path) -> None:
    """The task gets Celery's exception each time, and its request gives its place in the replica back."""
    with worker(tasks, "prefork", tmp_path / "log"):
        for _ in range(PLACES):
            assert results(tasks, [tasks.wait.s()] * 2) == ["out of time"] * 2
            assert results(tasks, [tasks.ask.s("later")])[0][0] == "echo later"


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_a_task_in_a_patched_worker_gets_an_error_that_says_what_to_do(tasks: Any, pool: str, tmp_path: Path) -> None:
    """Its call does not hang."""
    with worker(tasks, pool, tmp_path / "log"):
        with pytest.raises(Exception, match=f"{pool} has replaced the sockets.*prefork") as caught:
            results(tasks, [tasks.ask.s("hello")])
        assert type(caught.value).__name__ == "ConfigError"
