"""Surroundings: opened before user code, entered around each of its calls, in the right place."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import StreamingResponse

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.errors import ConfigError
from serve_bridge.replica.executor import Executor
from serve_bridge.replica.loaded_code import LoadedCode
from serve_bridge.user_code.batch_marks import accept_batch
from serve_bridge.user_code.frozen_code import freeze_code
from serve_bridge.user_code.streaming_response import threaded_content
from serve_bridge.user_code.surroundings import SurroundingsSpec, open_surroundings
from tests.support.projects import project_in

depth = contextvars.ContextVar("depth", default="outside")


class Recording:
    """Surroundings that note what happens, and set a context variable as Flask's do."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def setup(self) -> None:
        """Note it."""
        self.events.append("setup")

    @contextmanager
    def around(self) -> Iterator[None]:
        """Note who enters and leaves."""
        thread = threading.current_thread().name
        self.events.append("enter")
        token = depth.set("inside")
        try:
            yield
        finally:
            depth.reset(token)  # it raises in another context than that of `set`
            self.events.append("leave" if threading.current_thread().name == thread else "leave elsewhere")

    @asynccontextmanager
    async def around_async(self) -> AsyncIterator[None]:
        """Note it."""
        self.events.append("enter async")
        token = depth.set("inside")
        try:
            yield
        finally:
            depth.reset(token)
            self.events.append("leave async")


def run(code: Any, use: Callable[[Callable[..., Awaitable[Any]], LoadedCode], Awaitable[Any]], **config: Any) -> Any:
    """Return what *use* makes of a caller of *code* within surroundings, and what these noted after construction."""
    recording = Recording()

    async def main() -> Any:
        user_code = LoadedCode(code, surroundings=recording)
        executor = Executor(user_code, BackendConfig(**config))
        await executor.construct()
        recording.events.clear()

        async def call(data: Any = None, method: str = "__call__") -> Any:
            called = user_code.methods[method]
            result = await executor.run(called, *called.arguments(data, {}))
            return [item async for item in result] if hasattr(result, "__anext__") else result

        try:
            return await use(call, user_code)
        finally:
            executor.close()

    return asyncio.run(main()), recording.events


def plain(request: Any) -> str:
    """Return where it runs."""
    return depth.get()


def items(request: Any) -> Iterator[str]:
    """Yield where each step runs."""
    yield depth.get()
    yield depth.get()


def hidden_items(request: Any) -> Any:
    """Return a generator, which its signature does not tell."""
    return items(request)


async def asynchronous(request: Any) -> str:
    """Return where it runs."""
    await asyncio.sleep(0)
    return depth.get()


def hidden_asynchronous(request: Any) -> Any:
    """Return a coroutine, which its signature does not tell."""
    return asynchronous(request)


async def async_items(request: Any) -> AsyncIterator[str]:
    """Yield where each step runs."""
    yield depth.get()
    await asyncio.sleep(0)
    yield depth.get()


@accept_batch
def batch(requests: Sequence[Any]) -> list[str]:
    """Return where it runs, for each."""
    return [depth.get() for _ in requests]


CALLS: list[tuple[Callable[..., Any], Any, list[str]]] = [
    (plain, "inside", ["enter", "leave"]),
    (items, ["inside"] * 2, ["enter", "leave"]),
    (hidden_items, ["inside"] * 2, ["enter", "leave"] * 2),
    (asynchronous, "inside", ["enter async", "leave async"]),
    (hidden_asynchronous, "inside", ["enter", "leave", "enter async", "leave async"]),
    (async_items, ["inside"] * 2, ["enter async", "leave async"]),
    (batch, "inside", ["enter", "leave"]),
]


@pytest.mark.parametrize(("code", "result", "events"), CALLS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_call_runs_within(code: Callable[..., Any], result: Any, events: list[str]) -> None:
    """A generator as a whole, in one context."""
    assert run(code, lambda call, _: call(1)) == (result, events)


@pytest.mark.parametrize("code", [items, async_items])
def test_a_generator_that_is_given_up_leaves(code: Callable[..., Any]) -> None:
    """When it is closed."""

    async def first_only(_: Any, user_code: LoadedCode) -> Any:
        executor = Executor(user_code, BackendConfig())
        iterator = await executor.run(user_code.methods["__call__"], (1,), {})
        first = await anext(iterator)
        await iterator.aclose()
        executor.close()
        return first

    result, events = run(code, first_only)
    assert (result, len(events)) == ("inside", 2)


def streaming(request: Any) -> StreamingResponse:
    """Return a response whose body is iterated after the call, on threads."""
    return StreamingResponse(items(request))


async def async_streaming(request: Any) -> StreamingResponse:
    """Return a response whose body is iterated after the call, on the loop."""
    return StreamingResponse(async_items(request))


async def async_with_threaded_body(request: Any) -> StreamingResponse:
    """Return a response whose body is iterated after the call, on threads."""
    return StreamingResponse(items(request))


async def async_generator_returned(request: Any) -> AsyncIterator[str]:
    """Return a generator, which is iterated after the call."""
    return async_items(request)


LATER: list[tuple[Callable[..., Any], list[str]]] = [
    (streaming, ["enter", "leave"] * 2),
    (async_streaming, ["enter async", "leave async"] * 2),
    (async_with_threaded_body, ["enter async", "leave async", "enter", "leave"]),
    (async_generator_returned, ["enter async", "leave async"] * 2),
]


@pytest.mark.parametrize(("code", "events"), LATER, ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_iterated_after_a_call_runs_within_too(code: Callable[..., Any], events: list[str]) -> None:
    """A body enters and leaves by itself: the call that returned it has left."""

    async def use(call: Any, _: LoadedCode) -> list[Any]:
        result = await call(1)
        if not isinstance(result, StreamingResponse):
            return list(result)
        content = threaded_content(result)
        return list(content) if content is not None else [item async for item in result.body_iterator]

    assert run(code, use) == (["inside"] * 2, events)


def test_a_call_that_raises_leaves() -> None:
    """And its error comes out."""

    def failing(request: Any) -> None:
        raise LookupError("user")

    async def use(call: Any, _: Any) -> None:
        with pytest.raises(LookupError, match="user"):
            await call()

    assert run(failing, use)[1] == ["enter", "leave"]


class Whole:
    """Notes where everything runs."""

    def __init__(self) -> None:
        self.constructed = depth.get()

    def __call__(self, request: Any) -> str:
        """Return where the constructor ran."""
        return self.constructed

    def reconfigure(self, user_config: Any) -> str:
        """Return where it runs."""
        return depth.get()

    async def check_health(self) -> str:
        """Return where it runs."""
        return depth.get()


class AsyncWhole:
    """The same, on the loop."""

    def __init__(self) -> None:
        self.constructed = depth.get()

    async def __call__(self, request: Any) -> str:
        """Return where the constructor ran."""
        return self.constructed


@pytest.mark.parametrize("code", [Whole, AsyncWhole])
def test_the_constructor_runs_within(code: type) -> None:
    """On the user's thread, or on the loop."""
    assert run(code, lambda call, _: call())[0] == "inside"


def test_hooks_run_within() -> None:
    """A def and an async def."""

    async def use(_: Any, user_code: LoadedCode) -> Any:
        assert user_code.reconfigure is not None
        assert user_code.check_health is not None
        return user_code.reconfigure(1), await user_code.check_health()

    assert run(Whole, use)[0] == ("inside", "inside")


def test_code_without_surroundings_is_called_directly() -> None:
    """It pays nothing for what it has not."""
    code = LoadedCode(plain)
    code.construct()
    assert code.methods["__call__"].func is plain


# Opening


def test_surroundings_are_opened_before_user_code_is_imported(tmp_path: Path) -> None:
    """As Django has to be set up before models are imported."""
    with project_in(tmp_path) as project:
        project.write("late", "import frame\nassert frame.ready\ndef answer(request): return frame.ready")
        project.write(
            "frame",
            """
            ready = None
            class Frame:
                def __init__(self, settings): self.settings = settings
                def setup(self):
                    global ready
                    ready = self.settings
                def around(self): ...
                def around_async(self): ...
            """,
        )
        spec = SurroundingsSpec("frame:Frame", {"settings": "shop"})
        code = LoadedCode.load(freeze_code("late:answer", (), {}, surroundings=spec)).code
        assert code(None) == "shop"


def test_what_is_no_surroundings_is_refused(tmp_path: Path) -> None:
    """Naming what it lacks."""
    with project_in(tmp_path) as project:
        project.write("frame", "def make(): return 5")
        with pytest.raises(TypeError, match="setup, around, around_async"):
            open_surroundings(SurroundingsSpec("frame:make"))


@pytest.mark.parametrize(("path", "arguments"), [("frame", {}), ("a b:c", {}), ("frame:make", {"x": object()})])
def test_a_bad_spec_is_refused_where_it_is_made(path: str, arguments: dict[str, Any]) -> None:
    """It travels as msgpack."""
    with pytest.raises(ConfigError, match="surroundings"):
        SurroundingsSpec(path, arguments)
