"""Handles: calls from Python."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy
import pytest

import serve_bridge as serve
from tests.behaviour.support import backends
from tests.support.serving import Served, Serving
from tests.support.waiting import reached, wait_until


@pytest.fixture(scope="module")
def echo(module_serving: Serving) -> Served:
    """A backend that returns what it gets."""
    return module_serving(backends.data)


@pytest.fixture
def gate(serving: Serving, tmp_path: Path) -> Iterator[Served]:
    """A backend that answers once the file `open` is in the test's directory."""
    yield serving(backends.Gate, tmp_path, config={"max_concurrent_queries": 1})
    (tmp_path / "open").touch()


def test_an_unknown_endpoint_has_no_handle(client: serve.Client, echo: Served) -> None:
    """It is a KeyError that names those there are."""
    with pytest.raises(KeyError, match=rf"no endpoint 'missing'.*{echo.name}"):
        client.get_handle("missing")


def test_a_handle_of_a_missing_endpoint_works_once_it_exists(client: serve.Client, serving: Serving) -> None:
    """With missing_ok=True; before, a call says what is missing."""
    name = serving.name()
    handle = client.get_handle(name, missing_ok=True)
    with pytest.raises(serve.EndpointNotFound, match=name):
        handle.call()
    client.create_backend(name, backends.version_1)
    client.create_endpoint(name, backend=name)
    assert handle.call() == "v1"


@pytest.mark.parametrize(
    "value",
    [None, 0, "text", b"bytes", [1, [2]], {"a": {1, 2}}, 3 + 4j, b"x" * 3_000_000, "ä" * 100_000],
    ids=lambda value: f"{type(value).__name__}",
)
def test_python_values_pass_unchanged(echo: Served, value: Any) -> None:
    """Both ways, short or long."""
    assert echo.handle.call(value) == value


def test_arrays_pass_unchanged(echo: Served) -> None:
    """Large ones, ones that are not contiguous, and ones of objects."""
    for array in (numpy.arange(1_000_000), numpy.arange(100)[::3], numpy.array([{"a": 1}, None], dtype=object)):
        assert numpy.array_equal(echo.handle.call(array), array)


def test_keyword_arguments_are_query_parameters_with_their_types(serving: Serving) -> None:
    """A list counts as a repeated parameter."""

    def backend(request: Any) -> Any:
        return request.query_params["n"], request.query_params.getlist("many"), request.query_params.get("none")

    assert serving(backend).handle.call(n=5, many=[1, 2]) == (5, [1, 2], None)


def test_options_make_a_new_handle(serving: Serving) -> None:
    """And never change the old. The HTTP method is in upper case for user code."""
    handle = serving(lambda request: (request.method, request.headers.get("a"))).handle
    changed = handle.options(http_method="put").options(http_headers={"A": "b"})
    assert (changed.call(), handle.call()) == (("PUT", "b"), ("GET", None))


def test_later_changes_of_a_headers_dict_mean_nothing(serving: Serving) -> None:
    """The handle has a copy."""
    headers = {"a": "before"}
    handle = serving(lambda request: request.headers["a"]).handle.options(http_headers=headers)
    headers["a"] = "after"
    assert handle.call() == "before"


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"method_name": 5}, TypeError, "method_name"),
        ({"method_name": ""}, ValueError, "method_name"),
        ({"shard_key": 5}, TypeError, "shard_key"),
        ({"http_method": 5}, TypeError, "http_method"),
        ({"http_headers": [("a", "b")]}, TypeError, "http_headers"),
        ({"http_headers": {"a": 1}}, TypeError, "http_headers"),
        ({"timeout_s": 0}, ValueError, "timeout_s"),
        ({"timeout_s": float("nan")}, ValueError, "timeout_s"),
        ({"retries": 3}, TypeError, "retries"),
    ],
    ids=str,
)
def test_bad_options_are_refused(echo: Served, options: Any, error: type[Exception], text: str) -> None:
    """When the handle is made, not when it calls."""
    with pytest.raises(error, match=text):
        echo.handle.options(**options)


# Threads, loops, processes


def test_a_handle_works_in_many_threads_at_once(echo: Served) -> None:
    """The first call too."""
    barrier = threading.Barrier(16, timeout=20)

    def call(n: int) -> Any:
        barrier.wait()
        return echo.handle.call(n)

    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(call, range(16))) == list(range(16))


def test_acall_works_on_several_loops(echo: Served) -> None:
    """One after the other, and each with many calls at once."""

    async def main() -> list[Any]:
        return await asyncio.gather(*(echo.handle.acall(n) for n in range(100)))

    for _ in range(3):
        assert asyncio.run(main()) == list(range(100))


def test_call_on_a_running_loop_is_refused(echo: Served) -> None:
    """It would stop the loop; the error says what to await."""

    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"await handle\.acall"):
            echo.handle.call(1)
        with pytest.raises(RuntimeError, match=r"handle\.astream"):
            echo.handle.stream(1)

    asyncio.run(main())


def test_a_handle_survives_pickling(echo: Served) -> None:
    """With its options."""
    handle = pickle.loads(pickle.dumps(echo.handle.options(timeout_s=7.5)))
    assert handle.call("again") == "again"


def test_a_client_refuses_pickling(client: serve.Client) -> None:
    """And says what to pass instead."""
    with pytest.raises(TypeError, match=r"client\.address"):
        pickle.dumps(client)


def test_a_handle_can_be_a_constructor_argument(serving: Serving, echo: Served) -> None:
    """Backends call each other."""

    class Composed:
        def __init__(self, inner: serve.Handle) -> None:
            self.inner = inner

        async def __call__(self, request: Any) -> Any:
            return ["inner said", await self.inner.acall(request.data)]

    assert serving(Composed, echo.handle).handle.call(5) == ["inner said", 5]


def test_a_synchronous_backend_calls_another(serving: Serving, echo: Served) -> None:
    """On its own thread."""

    class Composed:
        def __init__(self, inner: serve.Handle) -> None:
            self.inner = inner

        def __call__(self, request: Any) -> Any:
            return ["inner said", self.inner.call(request.data)]

    assert serving(Composed, echo.handle).handle.call(5) == ["inner said", 5]


def test_connect_inside_a_replica_reaches_its_own_instance(serving: Serving, echo: Served) -> None:
    """Whatever else runs on the machine."""

    def backend(request: Any) -> Any:
        return serve.connect().get_handle(request.data).call("from inside")

    assert serving(backend).handle.call(echo.name) == "from inside"


def test_a_handle_can_be_passed_in_a_call(serving: Serving, echo: Served) -> None:
    """And come back."""

    async def backend(request: Any) -> Any:
        return await request.data.acall("passed"), request.data

    answer, handle = serving(backend).handle.call(echo.handle)
    assert (answer, handle.call("back")) == ("passed", "back")


# Exceptions


def test_a_users_exception_arrives_as_its_own_type(serving: Serving) -> None:
    """With the remote traceback as its cause."""

    def backend(request: Any) -> None:
        raise backends.OwnError("mine", 5)

    with pytest.raises(backends.OwnError) as caught:
        serving(backend).handle.call()
    assert caught.value.args == ("mine", 5)
    assert "in backend" in str(caught.value.__cause__)


def test_an_exception_that_cannot_be_rebuilt_arrives_as_text(serving: Serving) -> None:
    """BackendError has type, text and traceback; the replica lives."""

    def backend(request: Any) -> Any:
        if request.data:
            raise backends.OddError("one", "two")
        return "alive"

    handle = serving(backend).handle
    with pytest.raises(serve.BackendError, match="OddError: one two") as caught:
        handle.call(True)
    assert "in backend" in caught.value.remote_traceback
    assert handle.call(False) == "alive"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, StopIteration, asyncio.CancelledError])
def test_no_exception_ends_a_replica(serving: Serving, kind: type[BaseException]) -> None:
    """Whatever user code raises is an answer."""

    def backend(request: Any) -> Any:
        if request.data:
            raise kind("out")
        return "alive"

    handle = serving(backend).handle
    with pytest.raises(BaseException):  # noqa: B017, PT011 - which, is not the matter here
        handle.call(True)
    assert handle.call(False) == "alive"


def test_an_argument_that_cannot_be_pickled_is_the_callers_error(echo: Served) -> None:
    """Nothing was sent."""
    with pytest.raises(serve.SerializationError, match="lock"):
        echo.handle.call({"a": threading.Lock()})
    assert echo.handle.call("still") == "still"


def test_a_result_that_cannot_be_pickled_is_an_error(serving: Serving) -> None:
    """At the caller; the replica lives."""

    def backend(request: Any) -> Any:
        return __import__("threading").Lock() if request.data else "alive"

    handle = serving(backend).handle
    with pytest.raises(serve.SerializationError, match="lock"):
        handle.call(True)
    assert handle.call(False) == "alive"


# Methods


class Methods:
    """Public and private ones."""

    def __call__(self, request: Any) -> str:
        """Be called by default."""
        return "call"

    def by_request(self, request: Any) -> Any:
        """Get the request."""
        return type(request).__name__, request.data

    def by_data(self, first: Any, *, more: int = 0) -> Any:
        """Get the data and keywords."""
        return first, more

    def nothing(self) -> str:
        """Take nothing."""
        return "nothing"

    @staticmethod
    def static(x: int) -> int:
        """Need no instance."""
        return x + 1

    def _private(self) -> None: ...

    def reconfigure(self, value: Any) -> None:
        """Belong to the engine."""


@pytest.fixture(scope="module")
def methods(module_serving: Serving) -> Served:
    """A backend with several methods."""
    return module_serving(Methods)


def test_a_method_gets_what_its_signature_says(methods: Served) -> None:
    """The request if it asks for one, else data and keywords."""
    handle = methods.handle
    assert handle.options(method_name="by_request").call(5) == ("ServeRequest", 5)
    assert handle.options(method_name="by_data").call(5, more=2) == (5, 2)
    assert handle.options(method_name="nothing").call() == "nothing"
    assert handle.options(method_name="static").call(1) == 2


@pytest.mark.parametrize("name", ["_private", "__init__", "__class__", "reconfigure", "check_health", "missing", "ä"])
def test_other_names_are_not_exposed(methods: Served, name: str) -> None:
    """They are an AttributeError that lists no name."""
    with pytest.raises(serve.MethodNotExposed) as caught:
        methods.handle.options(method_name=name).call()
    assert isinstance(caught.value, AttributeError)
    assert "by_data" not in str(caught.value)


def test_a_wrong_call_of_a_method_is_a_type_error(methods: Served) -> None:
    """As it would be by hand."""
    with pytest.raises(TypeError, match="takes no data"):
        methods.handle.options(method_name="nothing").call(5)
    with pytest.raises(TypeError, match="'unknown'"):
        methods.handle.options(method_name="by_data").call(5, unknown=1)


def test_exposed_methods_are_exactly_those_listed(serving: Serving) -> None:
    """And `__call__`."""
    handle = serving(Methods, config={"exposed_methods": ["nothing"]}).handle
    assert (handle.call(), handle.options(method_name="nothing").call()) == ("call", "nothing")
    with pytest.raises(serve.MethodNotExposed):
        handle.options(method_name="static").call(1)


# Streams


async def count(request: Any) -> AsyncIterator[int]:
    """Count up, and fail at 13."""
    for n in range(request.data):
        if n == 13:
            raise backends.OwnError("unlucky")
        yield n


@pytest.fixture(scope="module")
def counting(module_serving: Serving) -> Served:
    """A backend that yields."""
    return module_serving(count)


def test_a_stream_is_iterated(counting: Served) -> None:
    """By threads and by loops."""

    async def main() -> list[Any]:
        return [item async for item in counting.handle.astream(5)]

    assert list(counting.handle.stream(5)) == [0, 1, 2, 3, 4]
    assert asyncio.run(main()) == [0, 1, 2, 3, 4]


def test_an_exception_comes_after_the_items_before_it(counting: Served) -> None:
    """As its own type."""
    items: list[int] = []
    with pytest.raises(backends.OwnError, match="unlucky"):
        items.extend(counting.handle.stream(20))
    assert items == list(range(13))


def test_a_stream_can_be_left(serving: Serving, tmp_path: Path) -> None:
    """The generator is closed in the replica."""

    def endless(request: Any) -> Iterator[int]:
        n = 0
        try:
            while True:
                yield (n := n + 1)
        finally:
            (tmp_path / "closed").touch()

    stream = serving(endless).handle.stream()
    assert [next(stream) for _ in range(3)] == [1, 2, 3]
    stream.close()
    wait_until((tmp_path / "closed").exists)


def test_a_plain_generator_streams(serving: Serving) -> None:
    """A `def` with yield."""

    def backend(request: Any) -> Iterator[str]:
        yield from ["a", "b"]

    assert list(serving(backend).handle.stream()) == ["a", "b"]


def test_many_large_items_stream(serving: Serving) -> None:
    """More than fits any buffer."""

    def backend(request: Any) -> Iterator[bytes]:
        for n in range(40):
            yield bytes([n]) * 200_000

    assert [(item[0], len(item)) for item in serving(backend).handle.stream()] == [(n, 200_000) for n in range(40)]


# Time


def test_a_call_past_its_time_is_given_up(gate: Served, tmp_path: Path) -> None:
    """Its work is cancelled, and the slot comes free."""
    for time_s in (0.3, 3.0, 20.0):  # a replica may be kept from running
        with pytest.raises(serve.DeadlineExceeded) as caught:
            gate.handle.options(timeout_s=time_s).call(1)
        if (tmp_path / "begun-1").exists():
            break
    assert caught.value.executed == "unknown"
    (tmp_path / "open").touch()
    assert gate.handle.call(2) == 2


def test_a_cancelled_call_is_cancelled_in_the_replica(serving: Serving, tmp_path: Path) -> None:
    """User code sees CancelledError."""

    async def backend(request: Any) -> None:
        (tmp_path / "begun").touch()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            (tmp_path / "cancelled").touch()
            raise

    handle = serving(backend).handle

    async def main() -> None:
        call = asyncio.create_task(handle.acall())
        await reached((tmp_path / "begun").exists)
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call

    asyncio.run(main())
    wait_until((tmp_path / "cancelled").exists)


def test_the_time_left_goes_with_nested_calls(serving: Serving, gate: Served) -> None:
    """The inner call ends with the outer one's time, not with its own default."""

    class Outer:
        def __init__(self, inner: serve.Handle) -> None:
            self.inner = inner

        async def __call__(self, request: Any) -> Any:
            return await self.inner.acall(1)

    with pytest.raises(serve.DeadlineExceeded):
        serving(Outer, gate.handle).handle.options(timeout_s=0.3).call()


def test_remote_without_ray_says_to_use_call(runtime: str, echo: Served) -> None:
    """On the local runtime there are no ObjectRefs."""
    if runtime == "ray":
        pytest.skip("tests/ray/test_object_refs.py has what holds there")
    with pytest.raises(serve.NotConnected, match=r"handle\.call\(\)"):
        echo.handle.remote(1)
