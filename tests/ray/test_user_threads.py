"""Threads that user code makes inside a replica: they belong to it, though no contextvar says so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

import serve_bridge as serve

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def runtime(ray_cluster: Any) -> str:
    """Only a process of its own belongs to one replica."""
    return "ray"


def in_thread(work: Callable[[], Any]) -> Any:
    """Run *work* in a thread without any context."""
    done: Future[Any] = Future()
    threading.Thread(target=lambda: done.set_result(work())).start()
    return done.result(30)


class Threads:
    """Does in threads of its own what it is asked for."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1)
        self.made_in = in_thread(lambda: serve.get_replica_context().backend)

    def where(self, data: Any) -> Any:
        """Return the replica, in each kind of thread, and from the constructor's."""
        context = serve.get_replica_context()
        found = [in_thread(serve.get_replica_context), self.pool.submit(serve.get_replica_context).result(30)]
        return [self.made_in == context.backend, *(each == context for each in found)]

    async def where_async(self, data: Any) -> Any:
        """Return whether a thread of the loop's executor knows the replica."""
        found = await asyncio.get_running_loop().run_in_executor(None, serve.get_replica_context)
        return found == serve.get_replica_context()

    def ask(self, endpoint: str) -> Any:
        """Call another endpoint, by a client that a thread has connected."""
        return self.pool.submit(lambda: serve.connect().get_handle(endpoint).call("from a thread")).result(30)

    def request(self, data: Any) -> Any:
        """Return what a thread knows of the request."""
        left = self.pool.submit(serve.time_left).result(30)
        same = self.pool.submit(serve.request_id).result(30) == serve.request_id()
        return left is not None and 0 < left <= 7, same


def echo(request: Any) -> Any:
    """Return the data."""
    return request.data


@pytest.fixture(scope="module")
def handles(client: serve.Client) -> serve.Handle:
    """A handle of the backend; another endpoint is `echo`."""
    client.create_backend("threads", Threads)
    client.create_endpoint("threads", backend="threads")
    client.create_backend("echo", echo)
    client.create_endpoint("echo", backend="echo")
    return client.get_handle("threads")


def test_a_thread_of_user_code_knows_its_replica(handles: serve.Handle) -> None:
    """However it was made."""
    assert handles.options(method_name="where").call() == [True] * 3
    assert handles.options(method_name="where_async").call() is True


def test_a_thread_of_user_code_connects_to_its_own_instance(handles: serve.Handle) -> None:
    """Not to another one that is called "default"."""
    other = serve.start(name="default", runtime="local", http_options={"location": None})
    try:
        assert handles.options(method_name="ask").call("echo") == "from a thread"
    finally:
        other.shutdown()


def test_a_thread_of_user_code_knows_the_time_and_the_id_of_the_only_request(handles: serve.Handle) -> None:
    """They are those of the request that runs."""
    assert handles.options(method_name="request", timeout_s=7).call() == (True, True)
