"""Callers that leave: what waited never starts, what runs is given up where it can be, and nothing keeps a slot."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.responses import StreamingResponse

import serve_bridge as serve
from serve_bridge.testing.raw_exchange import RawExchange
from tests.support.serving import Served, Serving
from tests.support.waiting import reached, wait_until

SHORT_S = 0.2
METHOD_HEADER = "X-Serve-Call-Method"


class Subject:
    """Waits for the file `open` in the directory that a request names, and notes there how far it has come."""

    def __init__(self, inner: serve.Handle | None = None) -> None:
        self.inner = inner

    async def __call__(self, request: Any) -> Any:
        """Wait on the loop."""
        _note("started", request)
        try:
            await reached(_opened(request))
        except asyncio.CancelledError:
            _note("cancelled", request)
            raise
        return request.query_params["name"]

    async def empty(self, request: Any) -> str:
        """Return at once."""
        return "empty"

    async def upload(self, request: Any) -> None:
        """Read the body for ever."""
        _note("started", request)
        try:
            async for _ in request.stream():
                pass
            await asyncio.Event().wait()
        finally:
            _note("cancelled", request)

    def in_turn(self, request: Any) -> None:
        """Wait on the one thread."""
        _note("started", request)
        wait_until(_opened(request))
        _note("ended", request)

    @serve.accept_batch
    async def in_batches(self, requests: list[Any]) -> list[None]:
        """Wait on the loop, one batch after another."""
        try:
            for request in requests:
                _note("started", request)
            await reached(_opened(requests[0]))
        except asyncio.CancelledError:
            _note("cancelled", requests[0])
            raise
        return [None] * len(requests)

    @serve.accept_batch
    def in_def_batches(self, requests: list[Any]) -> list[None]:
        """Wait on the one thread, one batch after another."""
        for request in requests:
            _note("started", request)
        wait_until(_opened(requests[0]))
        return [None] * len(requests)

    async def swallows(self, request: Any) -> str:
        """Go on whatever happens."""
        _note("started", request)
        while not _opened(request)():
            try:
                await reached(_opened(request))
            except asyncio.CancelledError:
                _note("cancelled", request)
        _note("ended", request)
        return "stubborn"

    async def shields(self, request: Any) -> None:
        """Let a part of the work go on without its caller."""

        async def work() -> None:
            _note("started", request)
            await reached(_opened(request))
            _note("ended", request)

        self.work = asyncio.create_task(work())
        await asyncio.shield(self.work)

    async def cleans_up(self, request: Any) -> None:
        """Wait in vain, and take some time to end."""
        _note("started", request)
        try:
            await asyncio.Event().wait()
        finally:
            await reached(_opened(request))
            _note("cancelled", request)

    async def nested(self, request: Any) -> Any:
        """Call on."""
        assert self.inner is not None
        return await self.inner.acall(**request.query_params)

    async def endless(self, request: Any) -> AsyncIterator[str]:
        """Yield for ever."""
        try:
            while True:
                yield "x" * 1000
                await asyncio.sleep(0)
        finally:
            _note("cancelled", request)

    def endless_in_def(self, request: Any) -> Iterator[str]:
        """Yield for ever, on a thread."""
        try:
            while True:
                yield "x" * 1000
        finally:
            _note("cancelled", request)

    async def silent(self, request: Any) -> AsyncIterator[str]:
        """Yield once."""
        try:
            yield "x" * 1000
            await asyncio.Event().wait()
        finally:
            _note("cancelled", request)

    async def response(self, request: Any) -> StreamingResponse:
        """Stream for ever, as a Response."""
        return StreamingResponse(self.endless(request))

    async def def_response(self, request: Any) -> StreamingResponse:
        """Stream for ever, on a thread."""
        return StreamingResponse(self.endless_in_def(request))

    async def numbers(self, count: int) -> AsyncIterator[int]:
        """Yield a few numbers."""
        for number in range(count):
            yield number


def _note(what: str, request: Any) -> None:
    (Path(request.query_params["directory"]) / f"{what} {request.query_params.get('name', '')}").touch()


def _opened(request: Any) -> Callable[[], bool]:
    return (Path(request.query_params["directory"]) / "open").exists


class Place:
    """A backend's endpoint, and a directory for what is noted of a test's requests."""

    def __init__(self, served: Served, directory: Path) -> None:
        self.route = served.route
        self.handle = served.handle
        self.directory = directory

    def method(self, name: str | None) -> serve.Handle:
        """Return the handle for another method."""
        return self.handle.options(method_name=name)

    def query(self, name: str) -> dict[str, str]:
        """Return what a request named so passes."""
        return {"directory": str(self.directory), "name": name}

    def target(self, name: str) -> str:
        """Return path and query of such a request."""
        return f"{self.route}?{httpx.QueryParams(self.query(name))}"

    def noted(self, what: str, name: str) -> bool:
        """Return whether that was noted of that request."""
        return (self.directory / f"{what} {name}").exists()

    def wait(self, what: str, name: str) -> None:
        """Wait for it in a thread."""
        wait_until(lambda: self.noted(what, name))

    async def reached(self, what: str, name: str) -> None:
        """Wait for it on a loop."""
        await reached(lambda: self.noted(what, name))

    def open(self) -> None:
        """Let everything through."""
        (self.directory / "open").touch()

    def check_free(self) -> None:
        """Check that the slot is free: it is the only one."""
        assert self.method("empty").call() == "empty"


@pytest.fixture(scope="module")
def wide(module_serving: Serving) -> Served:
    """A backend that runs several requests at once."""
    return module_serving(Subject, config={"max_batch_size": 4, "max_concurrent_queries": 8})


@pytest.fixture(scope="module")
def narrow(module_serving: Serving, wide: Served) -> Served:
    """A backend that runs one request at a time, and lets one wait at each caller."""
    config = {"max_batch_size": 4, "max_concurrent_queries": 1, "max_queued_queries": 1}
    return module_serving(Subject, wide.handle, config=config)


@pytest.fixture
def place(wide: Served, tmp_path: Path) -> Iterator[Place]:
    """The backend that runs several requests at once."""
    place = Place(wide, tmp_path)
    yield place
    place.open()


@pytest.fixture
def single(narrow: Served, tmp_path: Path) -> Iterator[Place]:
    """The backend that runs one request at a time."""
    place = Place(narrow, tmp_path)
    yield place
    place.open()


# HTTP clients


def ask(place: Place, http: httpx.Client, name: str, method: str | None = None) -> RawExchange:
    """Send a request through the proxy."""
    headers = [(METHOD_HEADER, method)] if method else []
    exchange = RawExchange(str(http.base_url), "GET", place.target(name), headers)
    exchange.end()
    return exchange


def leave(exchange: RawExchange, reset: bool) -> None:
    """Go, by RST or by FIN."""
    if reset:
        exchange.leave()
    else:
        exchange.__exit__()


@pytest.mark.parametrize("reset", [True, False])
def test_a_client_that_leaves_cancels_the_work(single: Place, http: httpx.Client, reset: bool) -> None:
    """User code sees CancelledError, and the slot comes free."""
    with ask(single, http, "a") as exchange:
        single.wait("started", "a")
        leave(exchange, reset)
        single.wait("cancelled", "a")
    single.check_free()


@pytest.mark.parametrize("reset", [True, False])
def test_a_client_that_leaves_the_line_never_starts(single: Place, http: httpx.Client, reset: bool) -> None:
    """Its place there, which is the only one, is free at once."""

    def probe() -> int:
        return http.get(single.target("probe"), headers={"X-Serve-Timeout-S": str(SHORT_S)}).status_code

    with ask(single, http, "first") as first:
        single.wait("started", "first")
        status = 504
        while status != 503:  # else it was the probe that waited
            with ask(single, http, "waiting") as waiting:
                status = probe()
                leave(waiting, reset)
        wait_until(lambda: probe() == 504)
        single.open()
        assert first.head().status_code == 200
    single.check_free()
    assert not single.noted("started", "waiting")


@pytest.mark.parametrize("reset", [True, False])
def test_a_client_that_leaves_during_its_upload_cancels_the_work(
    single: Place, http: httpx.Client, reset: bool
) -> None:
    """The rest will not come."""
    headers = [(METHOD_HEADER, "upload"), ("content-length", "1000000")]
    with RawExchange(str(http.base_url), "POST", single.target("a"), headers) as exchange:
        exchange.send(b"x" * 200_000)
        single.wait("started", "a")
        leave(exchange, reset)
        single.wait("cancelled", "a")
    single.check_free()


@pytest.mark.parametrize("method", ["endless", "endless_in_def", "silent", "response", "def_response"])
@pytest.mark.parametrize("reset", [True, False])
def test_a_client_that_leaves_its_answer_closes_the_generator(
    single: Place, http: httpx.Client, method: str, reset: bool
) -> None:
    """Its `finally` runs, and the slot comes free."""
    with ask(single, http, "a", method) as exchange:
        assert exchange.head().status_code == 200
        assert exchange.read()
        leave(exchange, reset)
        single.wait("cancelled", "a")
    single.check_free()


def test_a_def_keeps_its_slot_until_its_thread_returns(single: Place, http: httpx.Client) -> None:
    """Nobody can stop a thread."""
    with ask(single, http, "a", "in_turn") as exchange:
        single.wait("started", "a")
        exchange.leave()
    with pytest.raises(serve.DeadlineExceeded):
        single.method("empty").options(timeout_s=SHORT_S).call()
    single.open()
    single.check_free()
    assert single.noted("ended", "a")


# Python callers


async def cancelled(call: asyncio.Future[Any]) -> None:
    """Cancel it, and wait until it has ended."""
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


def test_a_call_that_was_cancelled_in_line_never_starts(single: Place) -> None:
    """The next one is served."""

    async def main() -> None:
        first = asyncio.create_task(single.handle.acall(**single.query("first")))
        await single.reached("started", "first")
        second = asyncio.create_task(single.handle.acall(**single.query("second")))
        await asyncio.sleep(0)
        await cancelled(second)
        single.open()
        assert await first == "first"
        assert await single.handle.acall(**single.query("third")) == "third"

    asyncio.run(main())
    assert not single.noted("started", "second")


@pytest.mark.parametrize("method", ["in_turn", "in_batches", "in_def_batches"])
def test_a_call_that_was_cancelled_before_its_turn_never_starts(place: Place, method: str) -> None:
    """It has a slot of the replica already, and waits there for a thread or a batch."""
    handle, empty = place.method(method), place.method("empty")

    async def main() -> None:
        calls = [asyncio.create_task(handle.acall(**place.query("first")))]
        await place.reached("started", "first")
        calls += [asyncio.create_task(handle.acall(**place.query(name))) for name in ("second", "third")]
        await empty.acall()  # frames come in order: the replica has the calls
        await cancelled(calls.pop(1))
        await empty.acall()
        place.open()
        await asyncio.gather(*calls)

    asyncio.run(main())
    assert (place.noted("started", "second"), place.noted("started", "third")) == (False, True)


def test_a_batch_is_cancelled_when_the_last_of_its_callers_leaves(place: Place) -> None:
    """Not before: the others wait for it."""
    handle, empty = place.method("in_batches"), place.method("empty")

    async def main() -> None:
        calls = [asyncio.create_task(handle.acall(**place.query("first")))]
        await place.reached("started", "first")
        calls += [asyncio.create_task(handle.acall(**place.query(name))) for name in ("second", "third")]
        await empty.acall()  # frames come in order: both wait for the next batch
        await cancelled(calls.pop(0))
        await place.reached("cancelled", "first")
        await place.reached("started", "third")
        await cancelled(calls.pop())
        await empty.acall()
        assert not place.noted("cancelled", "second")
        await cancelled(calls.pop())
        await place.reached("cancelled", "second")

    asyncio.run(main())


@pytest.mark.parametrize("method", ["endless", "endless_in_def", "silent"])
def test_items_that_are_given_up_close_the_generator(single: Place, method: str) -> None:
    """In a thread, by `close`."""
    items = single.method(method).stream(**single.query("a"))
    assert next(items)
    items.close()  # type: ignore[attr-defined]  # a generator, which is an iterator for users
    single.wait("cancelled", "a")
    single.check_free()


@pytest.mark.parametrize("how", ["leave", "cancel"])
@pytest.mark.parametrize("method", ["endless", "endless_in_def", "silent"])
def test_items_that_are_given_up_on_a_loop_close_the_generator(single: Place, method: str, how: str) -> None:
    """By `aclose`, or with the task that iterates them."""

    async def iterate(got: asyncio.Event) -> None:
        async with contextlib.aclosing(single.method(method).astream(**single.query("a"))) as items:  # type: ignore[type-var]
            async for _ in items:
                got.set()
                if how == "leave":
                    break

    async def main() -> None:
        got = asyncio.Event()
        task = asyncio.create_task(iterate(got))
        await got.wait()
        if how == "cancel":
            await cancelled(task)
        await task if how == "leave" else None
        await single.reached("cancelled", "a")

    asyncio.run(main())
    single.check_free()


@pytest.mark.parametrize("data", [None, b"x" * 100_000], ids=["direct", "by the loop thread"])
def test_a_call_that_is_interrupted_cancels_the_work(single: Place, data: Any) -> None:
    """By Ctrl-C, for one."""
    main = threading.main_thread()
    if threading.current_thread() is not main or main.ident is None:
        pytest.skip("signals come to the main thread")
    ident = main.ident

    def interrupt() -> None:
        single.wait("started", "a")
        signal.pthread_kill(ident, signal.SIGINT)

    with ThreadPoolExecutor(1) as threads:
        interrupting = threads.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            single.handle.call(data, **single.query("a"))
        interrupting.result()
    single.wait("cancelled", "a")
    single.check_free()


def test_a_nested_call_is_cancelled_with_the_outer_one(place: Place, single: Place) -> None:
    """And so on, as deep as it goes."""

    async def main() -> None:
        call = asyncio.create_task(single.method("nested").acall(**single.query("a")))
        await single.reached("started", "a")
        await cancelled(call)
        await single.reached("cancelled", "a")

    asyncio.run(main())
    single.check_free()


@pytest.mark.parametrize("when", ["before it begins", "twice", "after it is done"])
def test_a_call_may_be_cancelled_at_odd_moments(single: Place, when: str) -> None:
    """Nothing is left of it."""

    async def main() -> None:
        handle = single.method("empty") if when == "after it is done" else single.handle
        call = asyncio.create_task(handle.acall(**single.query("a")))
        if when == "after it is done":
            assert await call == "empty"
            assert not call.cancel()
            return
        if when == "twice":
            await single.reached("started", "a")
            call.cancel()
            await asyncio.sleep(0)
        await cancelled(call)
        assert await single.method("empty").acall() == "empty"

    asyncio.run(main())
    assert single.noted("started", "a") == (when == "twice")
    single.check_free()


def test_a_call_may_be_given_no_time_by_wait_for(single: Place) -> None:
    """It is cancelled before it begins."""

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(single.handle.acall(**single.query("a")), 0)
        assert await single.method("empty").acall() == "empty"

    asyncio.run(main())
    assert not single.noted("started", "a")


CANCELLED_AT = st.lists(st.tuples(st.booleans(), st.integers(0, 40)), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CANCELLED_AT)
def test_calls_that_are_cancelled_anywhere_leave_nothing(single: Place, plan: list[tuple[bool, int]]) -> None:
    """At each place where they wait; the only slot is free again, here and there, and no task is left."""

    async def numbers() -> list[Any]:
        return [number async for number in single.method("numbers").astream(5)]

    async def main() -> None:
        empty = single.method("empty")
        assert await empty.acall() == "empty"
        before = asyncio.all_tasks()
        for streamed, turns in plan:
            call: asyncio.Task[Any] = asyncio.create_task(numbers() if streamed else empty.acall())  # type: ignore[arg-type]
            for _ in range(turns):
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait([call])
            assert call.cancelled() or call.result() in ("empty", [0, 1, 2, 3, 4])
            assert await empty.options(timeout_s=20).acall() == "empty"
        assert asyncio.all_tasks() <= before

    asyncio.run(main())


# user code with a will of its own


def test_code_that_swallows_its_cancellation_keeps_its_slot(single: Place) -> None:
    """Until it returns; its answer goes nowhere."""

    async def main() -> None:
        call = asyncio.create_task(single.method("swallows").acall(**single.query("a")))
        await single.reached("started", "a")
        await cancelled(call)
        await single.reached("cancelled", "a")
        with pytest.raises(serve.DeadlineExceeded):
            await single.method("empty").options(timeout_s=SHORT_S).acall()
        single.open()
        assert await single.method("empty").acall() == "empty"

    asyncio.run(main())
    assert single.noted("ended", "a")


def test_code_that_shields_its_work_gives_its_slot_back(single: Place) -> None:
    """The work goes on by itself."""

    async def main() -> None:
        call = asyncio.create_task(single.method("shields").acall(**single.query("a")))
        await single.reached("started", "a")
        await cancelled(call)
        assert await single.method("empty").acall() == "empty"
        assert not single.noted("ended", "a")
        single.open()
        await single.reached("ended", "a")

    asyncio.run(main())


def test_code_that_was_cancelled_may_wait_for_its_end(single: Place) -> None:
    """It keeps its slot for that."""

    async def main() -> None:
        call = asyncio.create_task(single.method("cleans_up").acall(**single.query("a")))
        await single.reached("started", "a")
        await cancelled(call)
        with pytest.raises(serve.DeadlineExceeded):
            await single.method("empty").options(timeout_s=SHORT_S).acall()
        single.open()
        await single.reached("cancelled", "a")
        assert await single.method("empty").acall() == "empty"

    asyncio.run(main())


@pytest.mark.parametrize("method", ["swallows", "in_turn"])
def test_what_does_not_end_holds_no_drain_up(
    client: serve.Client, serving: Serving, tmp_path: Path, method: str
) -> None:
    """Beyond `graceful_shutdown_timeout_s`."""
    config = {"graceful_shutdown_timeout_s": SHORT_S, "max_batch_size": 4}
    own = Place(serving(Subject, config=config), tmp_path)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(own.method(method).call, **own.query("a"))
        own.wait("started", "a")
        client.delete_endpoint(own.handle.endpoint)
        client.delete_backend(own.handle.endpoint)
        own.open()
        with contextlib.suppress(serve.ServeBridgeError):
            call.result(20)
