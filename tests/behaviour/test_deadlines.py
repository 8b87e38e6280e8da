"""Deadlines: one budget from the caller to the last line of user code; what is past it never starts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import StreamingResponse

import serve_bridge as serve
from serve_bridge.testing.raw_exchange import RawExchange
from tests.support.serving import Served, Serving
from tests.support.waiting import POLL_S, reached, wait_until

SHORT_S = 0.2
ENOUGH_S = (SHORT_S, 2.0, 20.0)
"""What is tried in turn where a request must have begun before its time is over: a replica may be kept from running."""
LONG_S = 30.0
NESTED_S = 10.0

TIME_HEADER = "X-Serve-Timeout-S"
METHOD_HEADER = "X-Serve-Call-Method"


class Subject:
    """Says how much time it has, and waits for the file `open` in the directory that a request names.

    There it leaves a file for each request that has started and for each that was given up.
    """

    def __init__(self, inner: serve.Handle) -> None:
        self.inner = inner

    async def __call__(self, request: Any) -> str:
        """Wait on the loop."""
        _note("started", request)
        try:
            await reached(_opened(request))
        except asyncio.CancelledError:
            _note("given up", request)
            raise
        return "opened"

    async def empty(self, request: Any) -> None:
        """Return at once."""

    async def names(self, request: Any) -> list[str]:
        """Return the names of the request's headers."""
        return list(request.headers)

    # in turn

    def in_turn(self, request: Any) -> str:
        """Wait on the one thread."""
        _note("started", request)
        wait_until(_opened(request))
        return "opened"

    @serve.accept_batch
    async def in_batches(self, requests: list[Any]) -> list[str]:
        """Wait on the loop, one batch after another."""
        for request in requests:
            _note("started", request)
        await reached(_opened(requests[0]))
        return ["opened"] * len(requests)

    @serve.accept_batch
    def in_def_batches(self, requests: list[Any]) -> list[str]:
        """Wait on the one thread, one batch after another."""
        for request in requests:
            _note("started", request)
        wait_until(_opened(requests[0]))
        return ["opened"] * len(requests)

    async def in_inner_batches(self, request: Any) -> str:
        """Wait in a batch of user code's own."""
        found: str = await self._inner_batch(request)
        return found

    @serve.batch(max_batch_size=4)
    async def _inner_batch(self, requests: list[Any]) -> list[str]:
        for request in requests:
            _note("started", request)
        await reached(_opened(requests[0]))
        return ["opened"] * len(requests)

    # what is left

    async def left(self) -> Any:
        """Return it on the loop."""
        return serve.time_left()

    def left_in_def(self) -> Any:
        """Return it on a thread."""
        return serve.time_left()

    @serve.accept_batch
    async def left_in_batch(self, requests: list[Any]) -> list[Any]:
        """Return it to a batch."""
        return [serve.time_left() for _ in requests]

    @serve.accept_batch
    def left_in_def_batch(self, requests: list[Any]) -> list[Any]:
        """Return it to a batch on a thread."""
        return [serve.time_left() for _ in requests]

    async def left_in_inner_batch(self) -> Any:
        """Return it to a batch of user code's own."""
        return await self._left_inside(1)

    @serve.batch(max_batch_size=2)
    async def _left_inside(self, items: list[int]) -> list[Any]:
        return [serve.time_left() for _ in items]

    async def left_in_generator(self) -> AsyncIterator[Any]:
        """Yield it after a first item."""
        yield 0
        yield serve.time_left()

    def left_in_def_generator(self) -> Iterator[Any]:
        """Yield it after a first item, on a thread."""
        yield 0
        yield serve.time_left()

    async def left_in_response(self) -> Any:
        """Return a response that says it."""

        async def parts() -> AsyncIterator[str]:
            yield str(serve.time_left())

        return StreamingResponse(parts())

    def left_in_def_response(self) -> Any:
        """Return a response that says it, made on a thread."""

        def parts() -> Iterator[str]:
            yield str(serve.time_left())

        return StreamingResponse(parts())

    # nested calls

    async def nested(self) -> Any:
        """Return what is left here, and what a call has."""
        return [serve.time_left(), await self.inner.acall()]

    def nested_in_def(self) -> Any:
        """Return what is left here, and what a call has."""
        return [serve.time_left(), self.inner.call()]

    async def late(self, request: Any) -> None:
        """Call when there is no time left, on the loop."""
        _note("started", request)
        try:
            await asyncio.Event().wait()
        finally:
            while serve.time_left():  # noqa: ASYNC110 - it is the clock that it waits for
                await asyncio.sleep(POLL_S)
            try:
                await self.inner.acall()
            except serve.DeadlineExceeded as error:
                _note(f"executed: {error.executed}", request)

    def late_in_def(self, request: Any) -> None:
        """Call when there is no time left, on a thread."""
        _note("started", request)
        while serve.time_left():
            time.sleep(POLL_S)
        try:
            self.inner.call()
        except serve.DeadlineExceeded as error:
            _note(f"executed: {error.executed}", request)

    async def overloaded(self) -> None:
        """Fail as a nested call does that provably did not run."""
        raise serve.BackendOverloaded("full")

    async def expired(self) -> None:
        """Fail as a nested call does that provably did not run."""
        raise serve.DeadlineExceeded("late", "no")

    # streams

    async def endless(self, request: Any) -> AsyncIterator[str]:
        """Yield for ever."""
        _note("started", request)
        try:
            while True:
                yield "item\n"
                await asyncio.sleep(POLL_S)
        finally:
            _note("given up", request)

    def endless_in_def(self, request: Any) -> Iterator[str]:
        """Yield for ever, on a thread."""
        _note("started", request)
        try:
            while True:
                yield "item\n"
                time.sleep(POLL_S)
        finally:
            _note("given up", request)


def _note(what: str, request: Any) -> None:
    (Path(request.query_params["directory"]) / f"{what} {request.query_params.get('name', '')}").touch()


def _opened(request: Any) -> Callable[[], bool]:
    return (Path(request.query_params["directory"]) / "open").exists


def noted(directory: Path, what: str) -> list[str]:
    """Return the names of the requests of which that was noted."""
    return sorted(file.name.removeprefix(f"{what} ") for file in directory.glob(f"{what} *"))


@pytest.fixture(scope="module")
def subject(client: serve.Client, module_serving: Serving) -> str:
    """The backend of most tests."""
    left = module_serving.name()
    inner = client.get_handle(left, missing_ok=True).options(method_name="left")
    backend = module_serving.backend(Subject, inner, config={"max_batch_size": 4})
    client.create_endpoint(left, backend=backend)
    return backend


@pytest.fixture(scope="module")
def single(client: serve.Client, module_serving: Serving, subject: str) -> str:
    """One that runs one request at a time."""
    return module_serving.backend(Subject, client.get_handle(subject, missing_ok=True), config=ONE_AT_A_TIME)


ONE_AT_A_TIME = {"max_concurrent_queries": 1, "max_batch_size": 4}


@pytest.fixture
def at(client: serve.Client, serving: Serving) -> Callable[..., Served]:
    """Puts an endpoint of the test's own before a backend."""

    def at(backend: str, timeout_s: float | None = None) -> Served:
        name = serving.name()
        methods = ["GET", "POST"]
        client.create_endpoint(name, backend=backend, route=f"/{name}", methods=methods, timeout_s=timeout_s)
        return Served(name, f"/{name}", client.get_handle(name))

    return at


# Asking, in every way; each raises DeadlineExceeded.


def by_http(served: Served, http: httpx.Client, **query: str) -> None:
    """Ask through the proxy."""
    answer = http.get(served.route, params=query)
    assert answer.status_code == 504
    raise serve.DeadlineExceeded("504", answer.headers["x-serve-executed"])


def by_call(served: Served, _: httpx.Client, **query: str) -> None:
    """Ask from a thread."""
    served.handle.call(**query)


def by_a_long_call(served: Served, _: httpx.Client, **query: str) -> None:
    """Ask by way of the loop thread: the argument does not fit into the head."""
    served.handle.call(b"x" * 100_000, **query)


def by_acall(served: Served, _: httpx.Client, **query: str) -> None:
    """Ask from a loop."""

    async def ask() -> None:
        await served.handle.acall(**query)

    asyncio.run(ask())


def by_stream(served: Served, _: httpx.Client, **query: str) -> None:
    """Iterate in a thread."""
    for _item in served.handle.options(method_name="endless").stream(**query):
        pass


def by_astream(served: Served, _: httpx.Client, **query: str) -> None:
    """Iterate on a loop."""

    async def ask() -> None:
        async for _item in served.handle.options(method_name="endless").astream(**query):
            pass

    asyncio.run(ask())


Ask = Callable[..., None]


# how long it may take


@pytest.mark.parametrize("ask", [by_http, by_call, by_a_long_call, by_acall, by_stream, by_astream])
def test_an_endpoint_bounds_what_all_its_callers_ask(
    single: str, at: Callable[..., Served], http: httpx.Client, tmp_path: Path, ask: Ask
) -> None:
    """However long they would wait; the work is given up, and its slot is free."""
    for time_s in ENOUGH_S:
        with pytest.raises(serve.DeadlineExceeded) as caught:
            ask(at(single, time_s), http, directory=str(tmp_path))
        assert at(single).handle.options(method_name="empty").call() is None
        if noted(tmp_path, "started"):
            break
    assert caught.value.executed == "unknown"
    assert noted(tmp_path, "given up") == [""]


def test_a_call_over_ray_is_bounded_by_its_endpoint(
    runtime: str, subject: str, at: Callable[..., Served], tmp_path: Path
) -> None:
    """As every other one."""
    if runtime != "ray":
        pytest.skip("`remote` needs Ray")
    import ray

    with pytest.raises(serve.DeadlineExceeded):
        ray.get(at(subject, SHORT_S).handle.remote(directory=str(tmp_path)))


def test_the_less_of_two_limits_counts(subject: str, at: Callable[..., Served], tmp_path: Path) -> None:
    """Also where the caller's is the less."""
    with pytest.raises(serve.DeadlineExceeded):
        at(subject, LONG_S).handle.options(timeout_s=SHORT_S).call(directory=str(tmp_path))


def test_the_time_of_an_endpoint_is_listed_where_it_was_given(
    client: serve.Client, subject: str, at: Callable[..., Served]
) -> None:
    """The others have None."""
    hasty, plain = at(subject, 2), at(subject)
    listed = client.list_endpoints()
    assert (listed[hasty.name]["timeout_s"], listed[plain.name]["timeout_s"]) == (2.0, None)


def test_a_deployment_declares_and_withdraws_a_time(client: serve.Client, serving: Serving) -> None:
    """As it does a route."""
    name = serving.name()

    def deployed(**options: Any) -> tuple[list[str], Any]:
        code = serve.backend(name, version="1", **options)(lambda request: None)
        changes = serve.deploy(code, client=client).changes
        return [change.kind for change in changes], client.list_endpoints()[name].get("timeout_s")

    assert deployed(timeout_s=5) == (["create backend", "create endpoint"], 5.0)
    assert deployed(timeout_s=5) == ([], 5.0)
    assert deployed() == (["change endpoint"], None)


def test_a_client_may_shorten_the_time(
    subject: str, at: Callable[..., Served], http: httpx.Client, tmp_path: Path
) -> None:
    """By a header."""
    headers = {TIME_HEADER: str(SHORT_S)}
    answer = http.get(at(subject, LONG_S).route, params={"directory": str(tmp_path)}, headers=headers)
    assert answer.status_code == 504


def test_a_client_cannot_lengthen_the_time(
    subject: str, at: Callable[..., Served], http: httpx.Client, tmp_path: Path
) -> None:
    """Its number is clamped."""
    headers = {TIME_HEADER: "999999999"}
    answer = http.get(at(subject, SHORT_S).route, params={"directory": str(tmp_path)}, headers=headers)
    assert answer.status_code == 504


@pytest.mark.parametrize("given", ["0", "-1", "nan", "inf", "1e309", "1 2", "1;2", "9" * 5000, "\u00b9"], ids=range(9))
def test_a_header_that_is_no_time_is_a_400(
    subject: str, at: Callable[..., Served], http: httpx.Client, tmp_path: Path, given: str
) -> None:
    """And nothing is started."""
    headers = [(TIME_HEADER.encode(), given.encode("latin-1"))]
    answer = http.get(at(subject).route, params={"directory": str(tmp_path)}, headers=headers)
    assert (answer.status_code, noted(tmp_path, "started")) == (400, [])


def test_no_invented_header_has_an_effect(subject: str, at: Callable[..., Served], http: httpx.Client) -> None:
    """Nor does user code see one, or one of ours."""
    invented = ("Timeout", "Timeout-Ms", "Disconnect", "Retry", "Priority", "Model-Id", "Executed", "Request-Id")
    headers = {f"X-Serve-{name}": "0" for name in invented} | {TIME_HEADER: "20", METHOD_HEADER: "names"}
    answer = http.get(at(subject).route, headers=headers)
    assert answer.status_code == 200
    assert not [name for name in answer.json() if name.startswith("x-serve")]


def test_a_body_that_does_not_come_takes_the_requests_time(
    subject: str, at: Callable[..., Served], http: httpx.Client
) -> None:
    """It is a part of the request; nothing was started."""
    headers = [(TIME_HEADER, str(SHORT_S)), ("content-length", "5")]
    with RawExchange(str(http.base_url), "POST", at(subject).route, headers) as exchange:
        head = exchange.head()
    assert (head.status_code, dict(head.headers)[b"x-serve-executed"]) == (504, b"no")


# what is left, as user code sees it


@pytest.mark.parametrize("method", ["left", "left_in_def", "left_in_batch", "left_in_def_batch", "left_in_inner_batch"])
def test_user_code_sees_the_time_left(subject: str, at: Callable[..., Served], http: httpx.Client, method: str) -> None:
    """Wherever it runs, whoever calls."""
    served = at(subject, LONG_S)
    handle = served.handle.options(method_name=method)
    left = [handle.call(), http.get(served.route, headers={METHOD_HEADER: method}).json()]
    assert all(NESTED_S < each < LONG_S for each in left)
    assert 0 < handle.options(timeout_s=NESTED_S).call() < NESTED_S


@pytest.mark.parametrize("method", ["left_in_generator", "left_in_def_generator"])
def test_a_generator_sees_the_time_left(subject: str, at: Callable[..., Served], method: str) -> None:
    """In each of its steps."""
    _, left = at(subject, LONG_S).handle.options(method_name=method).stream()
    assert 0 < left < LONG_S


@pytest.mark.parametrize("method", ["left_in_response", "left_in_def_response"])
def test_the_body_of_a_response_sees_the_time_left(
    subject: str, at: Callable[..., Served], http: httpx.Client, method: str
) -> None:
    """It is made after user code has returned."""
    answer = http.get(at(subject, LONG_S).route, headers={METHOD_HEADER: method})
    assert 0 < float(answer.text) < LONG_S


@pytest.mark.parametrize("method", ["nested", "nested_in_def"])
def test_a_nested_call_has_what_the_outer_one_has_left(subject: str, at: Callable[..., Served], method: str) -> None:
    """Though its own limit is longer."""
    outer, inner = at(subject).handle.options(method_name=method, timeout_s=NESTED_S).call()
    assert 0 < inner < outer < NESTED_S


@pytest.mark.parametrize("method", ["late", "late_in_def"])
def test_a_nested_call_without_time_is_not_sent(
    subject: str, at: Callable[..., Served], tmp_path: Path, method: str
) -> None:
    """The error proves it."""
    for time_s in ENOUGH_S:
        with contextlib.suppress(serve.DeadlineExceeded):  # user code ends at the same instant
            at(subject).handle.options(method_name=method, timeout_s=time_s).call(directory=str(tmp_path))
        if noted(tmp_path, "started"):
            break
    wait_until((tmp_path / "executed: no ").exists)


@pytest.mark.parametrize("method", ["overloaded", "expired"])
def test_the_proof_of_a_nested_call_is_none_for_its_caller(
    subject: str, at: Callable[..., Served], method: str
) -> None:
    """User code has begun, whatever it learnt of what it called."""
    with pytest.raises((serve.DeadlineExceeded, serve.BackendOverloaded)) as caught:
        at(subject).handle.options(method_name=method).call()
    assert caught.value.executed == "unknown"


# what is past its time never starts


@pytest.mark.parametrize("method", ["in_turn", "in_batches", "in_def_batches", "in_inner_batches", None])
@pytest.mark.parametrize("ask", [by_http, by_call, by_acall])
def test_what_is_past_its_time_never_starts(
    request: pytest.FixtureRequest,
    at: Callable[..., Served],
    http: httpx.Client,
    tmp_path: Path,
    method: str | None,
    ask: Ask,
) -> None:
    """Wherever it waits for its turn; what comes later runs. Without a method it waits for a slot of the replica."""
    backend: str = request.getfixturevalue("subject" if method else "single")
    patient, hasty = at(backend), at(backend, SHORT_S)
    where = {"directory": str(tmp_path)}
    if method:
        patient, hasty = (Served(s.name, s.route, s.handle.options(method_name=method)) for s in (patient, hasty))
        http.headers[METHOD_HEADER] = method
    try:
        with ThreadPoolExecutor(1) as threads, opening(tmp_path):
            first = threads.submit(patient.handle.call, name="first", **where)
            wait_until((tmp_path / "started first").exists)
            with pytest.raises(serve.DeadlineExceeded):
                ask(hasty, http, name="late", **where)
        assert first.result() == "opened"
        assert patient.handle.call(name="next", **where) == "opened"
    finally:
        http.headers.pop(METHOD_HEADER, None)
    assert noted(tmp_path, "started") == ["first", "next"]


@contextlib.contextmanager
def opening(directory: Path) -> Iterator[None]:
    """Let through, in the end, what waits there."""
    try:
        yield
    finally:
        (directory / "open").touch()


def test_who_has_waited_in_line_in_vain_knows_that_nothing_ran(
    single: str, at: Callable[..., Served], tmp_path: Path
) -> None:
    """The line is where the call is made."""
    handle = at(single).handle
    where = {"directory": str(tmp_path)}

    async def ask() -> serve.DeadlineExceeded:
        first = asyncio.create_task(handle.acall(name="first", **where))
        await reached((tmp_path / "started first").exists)
        with pytest.raises(serve.DeadlineExceeded) as caught, opening(tmp_path):
            await handle.options(timeout_s=SHORT_S).acall(name="late", **where)
        await first
        return caught.value

    assert asyncio.run(ask()).executed == "no"
    assert noted(tmp_path, "started") == ["first"]


# answers that have begun


@pytest.mark.parametrize("method", ["endless", "endless_in_def"])
def test_a_stream_past_its_time_breaks_off(
    single: str, at: Callable[..., Served], http: httpx.Client, tmp_path: Path, method: str
) -> None:
    """Visibly, after what has come; its generator is closed, and its slot free."""

    def breaks_off(time_s: float) -> bool:
        query, headers = {"directory": str(tmp_path)}, {METHOD_HEADER: method}
        with http.stream("GET", at(single, time_s).route, params=query, headers=headers) as answer:
            if answer.status_code == 504:  # it had not begun
                return False
            with pytest.raises(httpx.RemoteProtocolError):
                list(answer.iter_lines())
        return answer.status_code == 200

    assert any(map(breaks_off, ENOUGH_S))
    assert at(single).handle.options(method_name="empty").call() is None
    assert noted(tmp_path, "given up") == [""]


@pytest.mark.parametrize("method", ["endless", "endless_in_def"])
def test_items_past_their_time_are_an_error(
    single: str, at: Callable[..., Served], tmp_path: Path, method: str
) -> None:
    """After those that have come."""
    come: list[str] = []
    for time_s in ENOUGH_S:
        items = at(single, time_s).handle.options(method_name=method).stream(directory=str(tmp_path))
        with pytest.raises(serve.DeadlineExceeded) as caught:
            come.extend(items)
        if come:
            break
    assert set(come) == {"item\n"}
    assert caught.value.executed == "unknown"
