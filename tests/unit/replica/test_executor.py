"""User code runs where it belongs, keeps its place, and whatever it raises comes out as an error."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.context import request_deadline
from serve_bridge.errors import DeadlineExceeded
from serve_bridge.replica.executor import Executor, is_stream
from serve_bridge.replica.loaded_code import LoadedCode
from serve_bridge.user_code.batch_marks import accept_batch

USER_THREAD = "serve_bridge-user"
RAISED = [SystemExit, KeyboardInterrupt, StopIteration, asyncio.CancelledError, GeneratorExit, ValueError]


class Backend:
    """An executor over one function or class, as a replica has it."""

    def __init__(self, code: Any, **config: Any) -> None:
        self.code = LoadedCode(code)
        self.executor = Executor(self.code, BackendConfig(**config))

    async def __call__(self, data: Any = None, method: str = "__call__", **kwargs: Any) -> Any:
        """Return what the method returns, or a list of what it yields."""
        called = self.code.methods[method]
        result = await self.executor.run(called, *called.arguments(data, kwargs))
        return [item async for item in result] if is_stream(result) else result


def with_backend(
    code: Any, use: Callable[[Backend], Awaitable[Any]], *, deadline: float | None = None, **config: Any
) -> Any:
    """Return what a coroutine function makes of a backend."""

    async def main() -> Any:
        backend = Backend(code, **config)
        await backend.executor.construct()
        request_deadline.set(deadline)
        try:
            return await use(backend)
        finally:
            backend.executor.close()

    return asyncio.run(main())


async def turns(count: int = 5) -> None:
    """Let the loop turn a few times, so that everything ready has run."""
    for _ in range(count):
        await asyncio.sleep(0)


class Gate:
    """Code that says when it has begun, and then waits to be let through."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.opened = threading.Event()
        self.seen: list[Any] = []

    def pass_through(self, request: Any) -> Any:
        """Return the request once the gate is open."""
        self.begun.set()
        assert self.opened.wait(60)
        self.seen.append(request)
        return request


def thread_name(request: Any) -> str:
    """Return where it runs."""
    return threading.current_thread().name


async def async_thread_name(request: Any) -> str:
    """Return where it runs."""
    return threading.current_thread().name


# --- where it runs


def test_a_def_runs_on_the_users_threads() -> None:
    """The loop stays free for everything else."""
    assert with_backend(thread_name, lambda backend: backend()).startswith(USER_THREAD)


def test_an_async_def_runs_on_the_loop() -> None:
    """It gets no thread that it would only wait in."""
    assert with_backend(async_thread_name, lambda backend: backend()) == threading.current_thread().name


class Constructed:
    """Keeps where it was made."""

    def __init__(self) -> None:
        self.made_in = threading.get_ident()

    def __call__(self) -> bool:
        """Return whether it runs where it was made."""
        return self.made_in == threading.get_ident()


class AsyncConstructed(Constructed):
    """The same, asynchronous."""

    async def __call__(self) -> bool:  # type: ignore[override]
        """Return whether it runs where it was made."""
        return super().__call__()


@pytest.mark.parametrize("code", [Constructed, AsyncConstructed])
def test_a_class_is_constructed_where_its_calls_run(code: type) -> None:
    """What its constructor opens may belong to that thread."""
    assert with_backend(code, lambda backend: backend()) is True


def test_one_thread_runs_one_call_after_another() -> None:
    """With `threads=1` code needs no locks, as the classic one needed none."""
    running: list[int] = []
    most: list[int] = []

    def code(request: int) -> int:
        running.append(request)
        most.append(len(running))
        running.remove(request)
        return request

    async def use(backend: Backend) -> list[Any]:
        return await asyncio.gather(*(backend(n) for n in range(20)))

    assert with_backend(code, use, threads=1) == list(range(20))
    assert set(most) == {1}


def test_more_threads_run_calls_at_once() -> None:
    """`threads=2` lets two calls meet."""
    barrier = threading.Barrier(2)

    def code(request: Any) -> bool:
        barrier.wait(60)
        return True

    async def use(backend: Backend) -> list[Any]:
        return await asyncio.gather(backend(), backend())

    assert with_backend(code, use, threads=2) == [True, True]


def test_threads_added_later_count() -> None:
    """A changed configuration is followed without a restart."""
    barrier = threading.Barrier(2)

    def code(request: Any) -> bool:
        barrier.wait(60)
        return True

    async def use(backend: Backend) -> list[Any]:
        backend.executor.configure(BackendConfig(threads=2))
        return await asyncio.gather(backend(), backend())

    assert with_backend(code, use, threads=1) == [True, True]


def test_a_def_that_returns_a_coroutine_is_awaited() -> None:
    """A lambda around an `async def` is as good as that."""
    assert with_backend(lambda request: async_thread_name(request), lambda backend: backend()) == "MainThread"


class Later:
    """An awaitable that is not a coroutine."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def __await__(self) -> Any:
        yield from asyncio.sleep(0).__await__()
        return self.result


def deferred(func: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate code so that it returns an awaitable of an awaitable, but is an `async def` if it was one."""
    if inspect.iscoroutinefunction(func):

        @functools.wraps(func)
        async def called(*args: Any) -> Any:
            return Later(func(*args))

        return called
    return functools.wraps(func)(lambda *args: Later(Later(func(*args))))


@pytest.mark.parametrize("code", [thread_name, async_thread_name])
def test_an_awaitable_that_a_decorator_returns_is_awaited(code: Callable[[Any], Any]) -> None:
    """However many lie around the result."""
    assert isinstance(with_backend(deferred(code), lambda backend: backend()), str)


@accept_batch
def doubled(items: list[int]) -> list[int]:
    """Return each item twice over."""
    return [item * 2 for item in items]


@accept_batch
async def doubled_async(items: list[int]) -> list[int]:
    """Return each item twice over."""
    return [item * 2 for item in items]


@pytest.mark.parametrize("code", [doubled, doubled_async])
def test_an_awaitable_of_batched_code_is_awaited(code: Callable[[Any], Any]) -> None:
    """Its results are those of the batch."""

    async def use(backend: Backend) -> Any:
        return await asyncio.gather(*(backend(n) for n in range(3)))

    assert with_backend(deferred(code), use, max_batch_size=3) == [0, 2, 4]


class Attributes(dict[str, Any]):
    """A dict that has every attribute, as many libraries have one."""

    def __getattr__(self, name: str) -> Any:
        return self.get(name)


@pytest.mark.parametrize("decorate", [lambda code: code, deferred])
def test_a_result_with_every_attribute_is_a_value(decorate: Any) -> None:
    """It is neither awaited nor iterated: its type says what it is."""
    assert with_backend(decorate(lambda request: Attributes(a=1)), lambda backend: backend()) == {"a": 1}


class Keywords:
    """Takes keywords that look like the executor's own."""

    def method(self, data: Any, *, func: int, deadline: int, **more: Any) -> Any:
        """Return what came."""
        return data, func, deadline, more


def test_any_keyword_reaches_user_code() -> None:
    """No name is taken by what stands between."""

    async def use(backend: Backend) -> Any:
        return await backend(1, "method", func=2, deadline=3, args=4, context=5)

    assert with_backend(Keywords, use) == (1, 2, 3, {"args": 4, "context": 5})


class Rows:
    """Yields what belongs to the thread that made it: SQLite refuses every other."""

    def __init__(self) -> None:
        self.closed_on: list[bool] = []

    def rows(self, count: int) -> Iterator[int]:
        """Yield from a connection that the call has opened."""
        return self._rows(sqlite3.connect(":memory:"), count)

    def _rows(self, connection: sqlite3.Connection, count: int) -> Iterator[int]:
        thread = threading.get_ident()
        try:
            for n in range(count):
                yield connection.execute("select ?", (n,)).fetchone()[0]
        finally:
            self.closed_on.append(threading.get_ident() == thread)
            connection.close()

    def closed(self) -> list[bool]:
        """Return where the generators were closed."""
        return self.closed_on


def test_a_generator_stays_on_the_thread_that_made_it() -> None:
    """From the call to its close, however many threads there are; and when their number changes in between."""

    async def use(backend: Backend) -> Any:
        several = await asyncio.gather(*(backend(30, "rows") for _ in range(8)))
        called = backend.code.methods["rows"]
        begun = await backend.executor.run(called, *called.arguments(3, {}))
        first = await anext(begun)
        backend.executor.configure(BackendConfig(threads=2))
        rest = [item async for item in begun]
        return several, [first, *rest], await backend(None, "closed")

    several, changed, closed = with_backend(Rows, use, threads=4)
    assert several == [list(range(30))] * 8
    assert changed == [0, 1, 2]
    assert closed == [True] * 9


# --- what it raises


def raising(error: type[BaseException]) -> Callable[[Any], Any]:
    """Return a `def` that raises when it is told to."""

    def code(request: Any) -> str:
        if request:
            raise error("told to")
        return "alive"

    return code


def raising_async(error: type[BaseException]) -> Callable[[Any], Any]:
    """Return an `async def` that raises when it is told to."""

    async def code(request: Any) -> str:
        return raising(error)(request)

    return code


def raising_batch(error: type[BaseException]) -> Callable[[Any], Any]:
    """Return a `def` over batches that raises when it is told to."""

    def code(requests: list[Any]) -> list[Any]:
        return [raising(error)(request) for request in requests]

    return accept_batch(code)


def raising_later(error: type[BaseException]) -> Callable[[Any], Any]:
    """Return a generator that raises when it is told to."""

    def code(request: Any) -> Iterator[str]:
        yield raising(error)(request)

    return code


@pytest.mark.parametrize("error", RAISED)
@pytest.mark.parametrize("code", [raising, raising_async, raising_batch, raising_later])
def test_whatever_user_code_raises_is_an_error_of_its_call_alone(
    code: Callable[[Any], Any], error: type[BaseException]
) -> None:
    """Neither the loop nor the one thread dies of it: the next call is answered."""

    async def use(backend: Backend) -> tuple[BaseException, Any]:
        try:
            await backend(True)
        except BaseException as raised:
            return raised, await backend(False)
        raise AssertionError("nothing was raised")

    raised, alive = with_backend(code(error), use)
    assert isinstance(raised, error | RuntimeError)
    assert alive in ("alive", ["alive"])


@pytest.mark.parametrize("error", [StopIteration, GeneratorExit, asyncio.CancelledError])
def test_what_would_mean_something_else_here_is_wrapped(error: type[BaseException]) -> None:
    """A `def` that raises CancelledError has not been cancelled."""
    with pytest.raises(RuntimeError, match=error.__name__) as caught:
        with_backend(raising(error), lambda backend: backend(True))
    assert isinstance(caught.value.__cause__, error)


# --- cancelled


def test_cancelled_before_it_has_begun_never_begins() -> None:
    """A call that nobody waits for any more does no work."""
    gate = Gate()

    async def use(backend: Backend) -> list[Any]:
        first = asyncio.create_task(backend("first"))
        assert await asyncio.to_thread(gate.begun.wait, 60)
        second = asyncio.create_task(backend("second"))
        await turns()
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        gate.opened.set()
        await first
        await backend("third")
        return gate.seen

    assert with_backend(gate.pass_through, use) == ["first", "third"]


@pytest.mark.parametrize("times", [1, 3])
def test_cancelled_after_it_has_begun_it_keeps_its_place(times: int) -> None:
    """A thread cannot be stopped, so its call counts until it returns, however often it is cancelled."""
    gate = Gate()

    async def use(backend: Backend) -> tuple[bool, list[Any]]:
        task = asyncio.create_task(backend("first"))
        assert await asyncio.to_thread(gate.begun.wait, 60)
        for _ in range(times):
            task.cancel()
            await turns()
        kept = not task.done()
        gate.opened.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        return kept, gate.seen

    assert with_backend(gate.pass_through, use) == (True, ["first"])


# --- generators


class Streaming:
    """Yields numbers, and remembers that its `finally` ran."""

    def __init__(self) -> None:
        self.closed_in: str | None = None

    def numbers(self) -> Iterator[int]:
        """Yield numbers for ever."""
        number = 0
        try:
            while True:
                yield number
                number += 1
        finally:
            self.closed_in = threading.current_thread().name

    async def async_numbers(self) -> AsyncIterator[int]:
        """Yield numbers for ever."""
        number = 0
        try:
            while True:
                yield number
                number += 1
        finally:
            self.closed_in = threading.current_thread().name

    def three(self) -> Iterator[Any]:
        """Yield three names of threads."""
        for _ in range(3):
            yield threading.current_thread().name

    async def async_three(self) -> AsyncIterator[Any]:
        """Yield three names of threads."""
        for _ in range(3):
            yield threading.current_thread().name

    def where(self) -> str | None:
        """Return where the `finally` ran."""
        return self.closed_in


@pytest.mark.parametrize(("method", "thread"), [("three", USER_THREAD), ("async_three", "MainThread")])
def test_a_generator_runs_where_its_kind_of_code_does(method: str, thread: str) -> None:
    """Every step of a synchronous one is taken on the user's threads."""
    names = with_backend(Streaming, lambda backend: backend(None, method))
    assert len(names) == 3
    assert all(name.startswith(thread) for name in names)


@pytest.mark.parametrize(("method", "thread"), [("numbers", USER_THREAD), ("async_numbers", "MainThread")])
def test_closing_a_generator_early_runs_its_finally(method: str, thread: str) -> None:
    """A caller that leaves lets user code put away what it holds, where it was taken."""

    async def use(backend: Backend) -> tuple[list[Any], Any]:
        called = backend.code.methods[method]
        items = await backend.executor.run(called, *called.arguments(None, {}))
        first = [await anext(items), await anext(items)]
        await items.aclose()
        return first, await backend(None, "where")

    first, closed_in = with_backend(Streaming, use)
    assert first == [0, 1]
    assert closed_in.startswith(thread)


def test_cancelling_a_step_of_a_generator_runs_its_finally() -> None:
    """The step that is under way is seen through, then the generator is closed."""
    gate = Gate()
    closed = threading.Event()

    def code(request: Any) -> Iterator[Any]:
        try:
            yield gate.pass_through(request)
        finally:
            closed.set()

    async def use(backend: Backend) -> None:
        task = asyncio.create_task(backend(1))
        assert await asyncio.to_thread(gate.begun.wait, 60)
        task.cancel()
        await turns()
        gate.opened.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    with_backend(code, use)
    assert closed.is_set()


# --- expired


@pytest.mark.parametrize("batched", [False, True])
def test_what_has_expired_before_its_turn_never_begins(batched: bool) -> None:
    """Nobody waits for the answer, and the error proves that nothing ran."""
    gate = Gate()
    code = accept_batch(lambda requests: gate.seen.extend(requests)) if batched else gate.seen.append

    async def use(backend: Backend) -> None:
        await backend("late")

    with pytest.raises(DeadlineExceeded) as caught:
        with_backend(code if batched else (lambda request: code(request)), use, deadline=time.monotonic() - 1)
    assert caught.value.executed == "no"
    assert gate.seen == []


def test_an_expired_item_leaves_its_batch_alone() -> None:
    """Whose time is up fails; the others are answered without it."""

    async def late(backend: Backend) -> Any:
        request_deadline.set(time.monotonic() - 1)
        return await backend("late")

    async def use(backend: Backend) -> list[Any]:
        return await asyncio.gather(late(backend), backend("a"), backend("b"), return_exceptions=True)

    code = accept_batch(lambda requests: [list(requests)] * len(requests))
    expired, *answers = with_backend(code, use, max_batch_size=10)
    assert isinstance(expired, DeadlineExceeded)
    assert answers == [["a", "b"], ["a", "b"]]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("last", [10**9, None])
def test_a_batch_has_as_much_time_as_its_last_caller(asynchronous: bool, last: float | None) -> None:
    """The first caller's time is not that of the others, and one without a limit has none."""

    async def run_async(requests: list[Any]) -> list[Any]:
        return [request_deadline.get() for _ in requests]

    def run(requests: list[Any]) -> list[Any]:
        return [request_deadline.get() for _ in requests]

    async def due(backend: Backend, deadline: float | None) -> Any:
        request_deadline.set(deadline)
        return await backend(1)

    async def use(backend: Backend) -> Any:
        return await asyncio.gather(due(backend, 10**9 - 1), due(backend, last))

    code = accept_batch(run_async if asynchronous else run)
    assert with_backend(code, use, max_batch_size=2) == [last, last]


class Batching:
    """Batches for the one thread that another method may hold."""

    def __init__(self) -> None:
        self.gate = Gate()

    @accept_batch
    def __call__(self, requests: list[Any]) -> list[Any]:
        """Note each item of the batch."""
        self.gate.seen.append(requests)
        return requests

    def hold(self, data: Any) -> Any:
        """Keep the thread until the gate is open."""
        return self.gate.pass_through(data)


@pytest.mark.parametrize("more", [[], ["a", "b"]])
def test_what_nobody_waits_for_leaves_a_batch_that_waits_for_its_thread(more: list[str]) -> None:
    """Whose time is up or who has gone by then is left out; the others are run, if there are any."""

    async def due(backend: Backend, value: str, deadline: float | None) -> Any:
        request_deadline.set(deadline)
        return await backend(value)

    async def use(backend: Backend) -> Any:
        gate: Gate = backend.code.methods["hold"].func.__self__.gate
        holding = asyncio.create_task(backend("held", "hold"))
        assert await asyncio.to_thread(gate.begun.wait, 60)
        soon = time.monotonic() + 0.1
        gone = asyncio.create_task(due(backend, "gone", None))
        calls = [
            asyncio.create_task(due(backend, value, soon if value == "late" else None)) for value in ["late", *more]
        ]
        await turns()
        gone.cancel()
        while time.monotonic() < soon:
            await turns()
        gate.opened.set()
        late, *answers = await asyncio.gather(*calls, return_exceptions=True)
        await holding
        return late, answers, gate.seen

    late, answers, seen = with_backend(Batching, use, max_batch_size=10)
    assert isinstance(late, DeadlineExceeded)
    assert answers == more
    assert seen == ["held", *([more] if more else [])]


def test_a_generator_that_has_begun_is_never_said_not_to_have() -> None:
    """When its time is up meanwhile, the caller ends it; it does not end itself with a false proof."""

    async def use(backend: Backend) -> Any:
        called = backend.code.methods["numbers"]
        items = await backend.executor.run(called, *called.arguments(None, {}))
        first = await anext(items)
        request_deadline.set(time.monotonic() - 1)
        return first, await anext(items), await items.aclose()

    assert with_backend(Streaming, use) == (0, 1, None)


# --- hooks


class Hooked:
    """Has a hook of each kind."""

    def __call__(self, request: Any) -> Any:
        """Return the request."""
        return request

    def check_health(self) -> str:
        """Return where it runs."""
        return threading.current_thread().name

    async def reconfigure(self, user_config: Any) -> Any:
        """Return what came, and where it runs."""
        return user_config, threading.current_thread().name


def test_an_async_hook_runs_on_the_loop() -> None:
    """As the rest of asynchronous code."""

    async def use(backend: Backend) -> Any:
        assert backend.code.reconfigure is not None
        return await backend.executor.run_hook(backend.code.reconfigure, {"a": 1})

    assert with_backend(Hooked, use) == ({"a": 1}, "MainThread")


class AtHome:
    """Has hooks and calls that use what belongs to the constructor's thread."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:")
        self.thread = threading.get_ident()
        self.ended: list[str] = []

    def __call__(self, request: Any) -> Any:
        """Return an answer of the database."""
        return self.connection.execute("select 1").fetchone()[0]

    def check_health(self) -> bool:
        """Use the database."""
        return bool(self.connection.execute("select 1").fetchone()[0])

    def reconfigure(self, user_config: Any) -> Any:
        """Use the database."""
        return self.connection.execute("select ?", (user_config,)).fetchone()[0]

    def close(self) -> None:
        """Close the database."""
        self.connection.close()


def test_hooks_of_a_def_run_where_the_constructor_ran() -> None:
    """Also with several threads."""

    async def use(backend: Backend) -> Any:
        code, executor = backend.code, backend.executor
        assert code.reconfigure is not None
        assert code.check_health is not None
        found = [await executor.probe(code.check_health) for _ in range(5)]
        found += [await executor.run_hook(code.reconfigure, n) for n in range(5)]
        await executor.end(code.close)
        return found

    assert with_backend(AtHome, use, threads=3) == [True] * 5 + list(range(5))


def test_a_plain_hook_of_asynchronous_code_runs_on_the_loop() -> None:
    """No other code runs beside it, as none ran beside the constructor."""

    class Async(Hooked):
        async def __call__(self, request: Any) -> Any:
            return request

        def reconfigure(self, user_config: Any) -> Any:  # type: ignore[override]
            return threading.current_thread().name

    async def use(backend: Backend) -> Any:
        assert backend.code.reconfigure is not None
        return await backend.executor.run_hook(backend.code.reconfigure, 1)

    assert with_backend(Async, use) == "MainThread"


def test_reconfigure_waits_for_the_call_that_runs() -> None:
    """A call never sees half of each configuration."""
    gate = Gate()
    order: list[str] = []

    class Serial(Hooked):
        def __call__(self, request: Any) -> Any:
            gate.pass_through(request)
            order.append("call")

        def reconfigure(self, user_config: Any) -> Any:  # type: ignore[override]
            order.append("reconfigure")

    async def use(backend: Backend) -> None:
        assert backend.code.reconfigure is not None
        call = asyncio.create_task(backend(1))
        assert await asyncio.to_thread(gate.begun.wait, 60)
        hook = asyncio.create_task(backend.executor.run_hook(backend.code.reconfigure, 1))
        await turns()
        gate.opened.set()
        await asyncio.gather(call, hook)

    with_backend(Serial, use)
    assert order == ["call", "reconfigure"]


def test_a_probe_of_a_busy_backend_is_positive_and_runs_in_its_turn() -> None:
    """Long work is no illness; what the probe then finds is told by the next one."""
    gate = Gate()

    class Busy:
        def __call__(self, request: Any) -> Any:
            return gate.pass_through(request)

        def check_health(self) -> None:
            raise ValueError("ill")

    async def use(backend: Backend) -> Any:
        check = backend.code.check_health
        assert check is not None
        task = asyncio.create_task(backend(1))
        assert await asyncio.to_thread(gate.begun.wait, 60)
        first = await backend.executor.probe(check)
        gate.opened.set()
        await task
        with pytest.raises(ValueError, match="ill"):
            await backend.executor.probe(check)
        return first

    assert with_backend(Busy, use) is True


class Dropped:
    """Tells that it is gone, and where, though it is part of a cycle."""

    def __init__(self, gone: list[Any]) -> None:
        self.gone = gone
        self.thread = threading.get_ident()
        self.itself = self

    def __call__(self, request: Any) -> None:
        """Do nothing."""

    def __del__(self) -> None:
        self.gone.append(threading.get_ident() == self.thread)


def test_the_end_drops_the_instance_where_it_was_made() -> None:
    """Its `__del__` runs on the constructor's thread."""
    gone: list[Any] = []

    async def main() -> None:
        code = LoadedCode(Dropped, (gone,))
        executor = Executor(code, BackendConfig(threads=2))
        await executor.construct()
        await executor.end(code.close)
        executor.close()

    asyncio.run(main())
    assert gone == [True]


@pytest.mark.parametrize("error", [SystemExit, StopIteration, ValueError])
def test_what_a_hook_raises_is_an_error(error: type[BaseException]) -> None:
    """A hook is user code too."""

    def hook() -> None:
        raise error("told to")

    async def use(backend: Backend) -> BaseException | None:
        try:
            await backend.executor.run_hook(hook)
        except BaseException as raised:
            return raised
        return None

    assert isinstance(with_backend(Hooked, use), error | RuntimeError)
