"""handle.remote: calls whose result is a Ray ObjectRef."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import starlette.requests

import serve_bridge as serve
from tests.behaviour.support import backends
from tests.behaviour.test_failures import Raising, facts_of
from tests.behaviour.test_request_ids import OWN, Caller, header, plain
from tests.support.programs import run_program
from tests.support.serving import Served, Serving
from tests.support.waiting import wait_until

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def runtime(ray_cluster: Any) -> str:
    """ObjectRefs are Ray's own."""
    return "ray"


@pytest.fixture(scope="module")
def echo(module_serving: Serving) -> Served:
    """A backend that returns what it gets."""
    return module_serving(backends.data)


def test_remote_returns_an_object_ref(ray_cluster: Any, echo: Served) -> None:
    """Whose result is retrieved by ray.get."""
    reference = echo.handle.remote({"a": 1})
    assert isinstance(reference, ray_cluster.ObjectRef)
    assert ray_cluster.get(reference, timeout=20) == {"a": 1}


def test_ray_wait_waits_for_calls(ray_cluster: Any, echo: Served) -> None:
    """As for any ObjectRef."""
    references = [echo.handle.remote(n) for n in range(10)]
    ready, waiting = ray_cluster.wait(references, num_returns=10, timeout=20)
    assert (len(ready), waiting) == (10, [])
    assert ray_cluster.get(references) == list(range(10))


def test_an_asynchronous_handle_is_awaited(ray_cluster: Any, client: serve.Client, echo: Served) -> None:
    """Await handle.remote() gives the ObjectRef, which can be awaited in its turn."""

    async def main() -> Any:
        handle = client.get_handle(echo.name, sync=False)
        reference = await handle.remote("awaited")
        assert isinstance(reference, ray_cluster.ObjectRef)
        return await reference

    assert asyncio.run(main()) == "awaited"


def test_remote_works_from_any_thread(ray_cluster: Any, echo: Served) -> None:
    """The first call too."""
    with ThreadPoolExecutor(8) as threads:
        references = list(threads.map(echo.handle.remote, range(40)))
    assert ray_cluster.get(references, timeout=20) == list(range(40))


def test_object_refs_among_the_arguments_are_resolved(ray_cluster: Any, serving: Serving) -> None:
    """As data and as keywords; the results of other calls too."""

    def backend(request: Any) -> Any:
        return request.data, request.query_params.get("more")

    handle = serving(backend).handle
    first = handle.remote(ray_cluster.put("put"), more=ray_cluster.put(5))
    assert ray_cluster.get(handle.remote(first), timeout=20) == (("put", 5), None)


def test_methods_and_options_are_as_with_call(ray_cluster: Any, serving: Serving) -> None:
    """The same rules, the same code."""

    class Methods:
        def __call__(self, request: Any) -> Any:
            return request.method, request.headers["a"], request.query_params["b"]

        def add(self, first: int, more: int = 0) -> int:
            return first + more

    handle = serving(Methods).handle
    assert ray_cluster.get(handle.options(method_name="add").remote(5, more=2), timeout=20) == 7
    called = handle.options(http_method="PUT", http_headers={"A": "h"}).remote(b=1)
    assert ray_cluster.get(called, timeout=20) == ("PUT", "h", 1)


def test_the_seed_pages_custom_method(ray_cluster: Any, serving: Serving) -> None:
    """handle.options(method_name="other_method").remote(5)."""

    class StatefulProcessor:
        def __init__(self) -> None:
            self.count = 1

        def __call__(self, request: Any) -> Any:
            return {"current": self.count}

        def other_method(self, inc: int) -> bool:
            self.count += inc
            return True

    handle = serving(StatefulProcessor).handle
    assert ray_cluster.get(handle.options(method_name="other_method").remote(5), timeout=20) is True
    assert ray_cluster.get(handle.remote(), timeout=20) == {"current": 6}


def test_a_web_request_is_not_wrapped(ray_cluster: Any, serving: Serving) -> None:
    """handle.remote(starlette_request)."""

    async def backend(request: Any) -> Any:
        return isinstance(request, starlette.requests.Request), request.query_params["a"]

    scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": "/", "query_string": b"a=b", "headers": []}
    reference = serving(backend).handle.remote(starlette.requests.Request(scope))
    assert ray_cluster.get(reference, timeout=20) == (True, "b")


def test_a_users_exception_is_a_ray_task_error_of_its_type(ray_cluster: Any, serving: Serving) -> None:
    """As Ray does it."""

    def backend(request: Any) -> None:
        raise backends.OwnError("mine")

    reference = serving(backend).handle.remote()
    with pytest.raises(backends.OwnError, match="mine") as caught:
        ray_cluster.get(reference, timeout=20)
    assert isinstance(caught.value, ray_cluster.exceptions.RayTaskError)


def test_an_exception_that_cannot_be_rebuilt_reaches_the_caller(ray_cluster: Any, serving: Serving) -> None:
    """As text, and the replica lives."""

    def backend(request: Any) -> Any:
        if request.data:
            raise backends.OddError("one", "two")
        return "alive"

    handle = serving(backend).handle
    with pytest.raises(Exception, match="one two"):
        ray_cluster.get(handle.remote(True), timeout=20)
    assert ray_cluster.get(handle.remote(False), timeout=20) == "alive"


def test_type_and_text_of_an_exception_without_a_pickled_form_arrive(ray_cluster: Any, serving: Serving) -> None:
    """Ray would drop the type; text of several lines cannot choose another."""
    reference = serving(Raising).handle.remote("lines")
    with pytest.raises(serve.BackendError) as caught:
        ray_cluster.get(reference, timeout=20)
    error: Any = caught.value
    assert (error.cause.type_name, error.cause.text) == facts_of("lines")


def test_a_call_has_an_id_which_reaches_what_it_calls(ray_cluster: Any, serving: Serving) -> None:
    """As any other call from Python: a new one, or that of the caller's choice."""
    handle = serving(header).handle
    made, told = ray_cluster.get(handle.remote(), timeout=20)
    assert made == told
    assert ray_cluster.get(handle.options(http_headers=OWN).remote(), timeout=20) == ["own-1", "own-1"]
    ids = ray_cluster.get(serving(Caller, serving(plain).name).handle.remote(), timeout=20)
    assert len(set(ids)) == 1


def test_an_unknown_method_is_not_exposed(ray_cluster: Any, echo: Served) -> None:
    """Nor does it hang."""
    with pytest.raises(serve.MethodNotExposed):
        ray_cluster.get(echo.handle.options(method_name="missing").remote(), timeout=20)


def test_a_deleted_endpoint_is_not_found(client: serve.Client, serving: Serving) -> None:
    """At once, without an ObjectRef."""
    served = serving(backends.data)
    client.delete_endpoint(served.name)
    with pytest.raises(serve.EndpointNotFound):
        served.handle.remote(1)


def test_a_full_queue_refuses_at_once(ray_cluster: Any, serving: Serving, tmp_path: Path) -> None:
    """max_queued_queries holds for remote too."""
    config = {"max_concurrent_queries": 1, "max_queued_queries": 2}
    handle = serving(backends.Gate, tmp_path, config=config).handle
    references = [handle.remote(n) for n in range(3)]
    with pytest.raises(serve.BackendOverloaded):
        handle.remote(4)
    (tmp_path / "open").touch()
    assert ray_cluster.get(references, timeout=20) == [0, 1, 2]
    assert ray_cluster.get(handle.remote(5), timeout=20) == 5


def test_one_call_after_another_never_finds_the_queue_full(ray_cluster: Any, serving: Serving) -> None:
    """A call that has been answered does not count any more, however small the limits are."""
    handle = serving(backends.data, config={"max_concurrent_queries": 1, "max_queued_queries": 0}).handle
    assert [ray_cluster.get(handle.remote(n), timeout=20) for n in range(50)] == list(range(50))


def test_remote_follows_a_rolling_update(ray_cluster: Any, client: serve.Client, serving: Serving) -> None:
    """Calls in flight end on the old version, later ones on the new."""
    served = serving(backends.version_1)
    assert ray_cluster.get(served.handle.remote(), timeout=20) == "v1"
    client.update_backend(served.name, backends.version_2)
    assert ray_cluster.get([served.handle.remote() for _ in range(10)], timeout=20) == ["v2"] * 10


def test_calls_under_an_update_are_not_lost(ray_cluster: Any, client: serve.Client, serving: Serving) -> None:
    """Every ObjectRef has a result."""
    served = serving(backends.version_1, config={"num_replicas": 2})
    references: list[Any] = []
    stop = threading.Event()

    def calls() -> Iterator[None]:
        while not stop.is_set():
            references.append(served.handle.remote())
            ray_cluster.wait(references[-1:], timeout=20)
            yield

    thread = threading.Thread(target=lambda: list(calls()))
    thread.start()
    client.update_backend(served.name, backends.version_2)
    stop.set()
    thread.join()
    assert set(ray_cluster.get(references, timeout=20)) <= {"v1", "v2"}


def test_shadows_get_copies(ray_cluster: Any, client: serve.Client, serving: Serving, tmp_path: Path) -> None:
    """As with call."""
    served = serving(backends.version_1)
    file = tmp_path / "entries"
    client.shadow_traffic(served.name, serving.backend(backends.Journal, file), 1.0)
    assert ray_cluster.get(served.handle.remote("copied"), timeout=20) == "v1"
    wait_until(lambda: file.exists() and file.read_text() == "copied\n")


def test_remote_needs_ray_in_this_process(client: serve.Client, echo: Served) -> None:
    """Without, the error says to use call."""
    program = """
        import sys
        import serve_bridge as serve
        handle = serve.connect(sys.argv[1]).get_handle(sys.argv[2])
        try:
            handle.remote(1)
        except serve.NotConnected as error:
            print("handle.call()" in str(error), handle.call(2))
    """
    assert run_program(program, client.address, echo.name) == "True 2\n"


def test_an_argument_that_cannot_be_pickled_is_named_by_its_path(
    ray_cluster: Any, client: serve.Client, echo: Served
) -> None:
    """As with call, and from an asynchronous handle too; an ObjectRef beside it is no obstacle."""
    data = {"ref": ray_cluster.put(1), "deep": [0, threading.Lock()]}
    told = r"the data of the call cannot be pickled: data\['deep'\]\[1\] is a _thread.lock$"
    with pytest.raises(serve.SerializationError, match=told):
        echo.handle.remote(data)
    with pytest.raises(serve.SerializationError, match=told):
        asyncio.run(client.get_handle(echo.name, sync=False).remote(data))
    with pytest.raises(
        serve.SerializationError, match=r"the argument 'x' of the call cannot be pickled: x is a _thread"
    ):
        echo.handle.remote(1, x=threading.Lock())


class Locked:
    """Returns what cannot be pickled."""

    def __call__(self, request: Any) -> Any:
        """Return a lock."""
        return threading.Lock()


def test_a_result_that_cannot_be_pickled_is_named(ray_cluster: Any, serving: Serving) -> None:
    """With its class."""
    served = serving(Locked)
    with pytest.raises(TypeError, match="lock"):
        ray_cluster.get(served.handle.remote(), timeout=20)
