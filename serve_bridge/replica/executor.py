"""Where user code runs: `async def` on the replica's loop, `def` on its threads, marked methods in batches.

Rule 1: user code can raise anything, SystemExit too; nothing of it ends the loop or a thread.
Rule 2: a `def` that has begun keeps its place until its thread returns, whatever became of the caller.
Rule 3: what has expired before its turn is not begun.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from itertools import compress
from types import GeneratorType
from typing import Any, Final

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.context import request_deadline
from serve_bridge.errors import DeadlineExceeded
from serve_bridge.process.daemon_threads import DaemonThreads, Pin
from serve_bridge.replica.loaded_code import LoadedCode
from serve_bridge.user_code.awaitables import awaited, is_awaitable
from serve_bridge.user_code.batch_queue import BatchQueue
from serve_bridge.user_code.batch_results import batch_results
from serve_bridge.user_code.method import Method

TURN_S: Final = 1.0
"""Seconds that a health probe waits for its turn before the replica counts as busy."""
_DONE: Final = object()


class Executor:
    """Runs one replica's user code."""

    def __init__(self, code: LoadedCode, config: BackendConfig) -> None:
        self._code = code
        self._config = config
        self._threads = _user_threads(config)
        self._home = self._threads.pin()  # the thread of the constructor, where there is one
        self._probe: Future[Any] | None = None
        self._queues: dict[str, BatchQueue] = {}

    async def construct(self) -> None:
        """Construct the user's class where its calls will run, so that what it opens belongs there."""
        if self._code.is_async:
            await self._code.aconstruct()
        else:
            await self._at_home(self._code.construct)
        for method in self._code.methods.values():
            if method.batched:
                limits = _batch_limits(self._config)
                queue = self._queues[method.name] = BatchQueue(self._batch_runner(method), *limits)
                queue.ahead = _batches_ahead(method, self._config)

    def configure(self, config: BackendConfig) -> None:
        """Follow changed options: threads and batch limits."""
        if config.threads != self._config.threads:
            self._home.release()
            self._threads.shutdown()
            self._threads = _user_threads(config)
            self._home = self._threads.pin()
        for name, queue in self._queues.items():
            queue.ahead = _batches_ahead(self._code.methods[name], config)
            queue.reconfigure(*_batch_limits(config))
        self._config = config

    async def run(self, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what *method* returns; a generator comes back as an asynchronous iterator.

        Raises:
            BaseException: What user code raises.
            DeadlineExceeded: The request's time was up before its turn; nothing was begun.
        """
        if method.batched:
            return await self._run_in_batch(self._queues[method.name], args[0] if args else None)
        if method.is_async:
            result = method.func(*args, **kwargs)
            if method.is_generator:
                return result
        else:
            result, thread = await self._in_thread(_placed, method.func, *args, **kwargs)
            if type(result) is GeneratorType:
                return self.iterate(result, thread)
        if is_awaitable(result):  # of an `async def`, or of a lambda or decorator around one
            result = await awaited(result)
        return self.iterate(result) if type(result) is GeneratorType else result

    async def run_hook(self, hook: Callable[..., Any], *args: Any) -> Any:
        """Return what *hook*, a method such as `reconfigure` or `close`, returns, sync or async.

        It takes its turn among the calls: on the loop for asynchronous code, otherwise on the constructor's thread.
        """
        if self._code.is_async:
            result = _opened(_guarded(hook, args, {}))
        else:
            result = await self._at_home(hook, *args)
        return await awaited(result)

    async def probe(self, check: Callable[[], Any]) -> Any:
        """Return what *check*, the method `check_health`, returns; True while requests keep it from its turn.

        A plain `def` runs on the constructor's thread, since it may use what belongs to that thread. A thread that is
        busy with a request is not ill: the probe then keeps its place, and a later call returns what came of it.
        """
        if inspect.iscoroutinefunction(check):
            return await check()
        if self._probe is None:
            context = contextvars.copy_context()
            self._probe = self._home.submit(context.run, _guarded, check, (), {})
        probe = self._probe
        outcome = asyncio.wrap_future(probe)
        await asyncio.wait([outcome], timeout=TURN_S)
        if not outcome.done() and not probe.running():
            return True
        result = await asyncio.shield(outcome)
        self._probe = None
        return await awaited(_opened(result))

    async def end(self, close: Callable[[], Any] | None) -> None:
        """Call *close*, then drop the user's instance where it was made, so that its `__del__` runs there.

        Raises:
            BaseException: What *close* raises; the instance is dropped all the same.
        """
        try:
            if close is not None:
                await self.run_hook(close)
        finally:
            self._queues.clear()
            if self._code.is_async:
                self._code.drop()
            else:
                await self._at_home(self._code.drop)

    def close(self) -> None:
        """Take nothing new; a thread that still runs is left to end."""
        self._threads.shutdown(cancel_futures=True)

    async def _at_home(self, func: Callable[..., Any], *args: Any) -> Any:
        """Return what *func* returns on the constructor's thread, in its turn."""
        return await self._in_turn(self._home, None, contextvars.copy_context(), func, args, {})

    async def _run_in_batch(self, queue: BatchQueue, value: Any) -> Any:
        item = _Item(value)
        try:
            return await queue.submit(item)
        finally:
            item.wanted = False

    def _batch_runner(self, method: Method) -> Callable[[list[_Item]], Any]:
        async def run(items: list[_Item]) -> Sequence[Any]:
            if method.is_async:
                return await awaited(method.func([item.value for item in items]))  # type: ignore[no-any-return]  # checked later
            run = _WantedOf(items)
            results = await self._in_thread(run.call, method.func)
            return run.spread(await awaited(results)) if is_awaitable(results) else results

        return run

    async def _in_thread(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        deadline, context = request_deadline.get(), contextvars.copy_context()
        return await self._in_turn(self._threads, deadline, context, func, args, kwargs)

    async def _in_turn(
        self,
        threads: DaemonThreads | Pin,
        deadline: float | None,
        context: contextvars.Context,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        future = threads.submit(_in_time, deadline, context, func, args, kwargs)
        return _opened(await _uninterrupted(future))

    async def iterate(self, generator: Iterator[Any], thread: int | None = None) -> AsyncIterator[Any]:
        """Iterate *generator* on one thread of user code, and close it there, since it may hold what belongs to one.

        That is *thread*, by its identifier, if that still runs.
        """
        deadline = request_deadline.get()
        context = contextvars.copy_context()  # one for all steps, so that a generator can leave what it has entered
        pin = self._threads.pin(thread)
        try:
            while (item := await self._in_turn(pin, deadline, context, next, (generator, _DONE), {})) is not _DONE:
                deadline = None  # it has begun, so nothing may say any more that it has not
                yield item
        finally:
            try:
                close = getattr(generator, "close", None)
                if close is not None:  # even though the request is over
                    await _uninterrupted(pin.submit(context.run, _guarded, close, (), {}))
            finally:
                pin.release()


def is_stream(result: object) -> bool:
    """Return whether *result* of `Executor.run` yields items. The type decides, as in `is_awaitable`."""
    return hasattr(type(result), "__anext__")


class _Item:
    """One request of a batch; *wanted* until its caller has the answer, or has left."""

    __slots__ = ("deadline", "value", "wanted")

    def __init__(self, value: Any) -> None:
        self.value = value
        self.deadline = request_deadline.get()
        self.wanted = True


class _WantedOf:
    """A batch that has waited for its thread, without the items that no caller waits for any more."""

    __slots__ = ("_items", "_wanted")

    def __init__(self, items: list[_Item]) -> None:
        self._items = items
        self._wanted: list[bool] = []

    def call(self, func: Callable[[list[Any]], Any]) -> Any:
        """Return a result or an error for each item; an awaitable of *func* as it is, for the loop to await."""
        now = time.monotonic()
        self._wanted = [item.wanted and (item.deadline is None or now < item.deadline) for item in self._items]
        values = [item.value for item in compress(self._items, self._wanted)]
        results = func(values) if values else ()
        return results if is_awaitable(results) else self.spread(results)

    def spread(self, results: object) -> list[Any]:
        """Return *results* of the wanted items among errors for the others."""
        answers = iter(batch_results(results, sum(self._wanted)))
        return [next(answers) if each else _too_late() for each in self._wanted]


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the time was up before a thread was free", "no")


def _user_threads(config: BackendConfig) -> DaemonThreads:
    return DaemonThreads(config.threads, "serve_bridge-user")


def _batch_limits(config: BackendConfig) -> tuple[int, float]:
    return config.max_batch_size or 1, config.batch_wait_timeout


def _batches_ahead(method: Method, config: BackendConfig) -> int:
    # Two threads would run both at once, and batches of a method never overlap.
    return 0 if method.is_async or config.threads > 1 else 1


async def _uninterrupted(future: Future[Any]) -> Any:
    """Wait for *future*; on cancellation withdraw it if it has not begun, else see it through first."""
    wrapped = asyncio.wrap_future(future)
    try:
        return await asyncio.shield(wrapped)
    except asyncio.CancelledError:
        if not future.cancel():
            await _settled(wrapped)
        raise


async def _settled(future: asyncio.Future[Any]) -> None:
    """Wait for *future*, however often the waiting task is cancelled meanwhile."""
    while not future.done():
        with suppress(asyncio.CancelledError):  # the task is being cancelled already
            await asyncio.wait([future])


def _in_time(
    deadline: float | None,
    context: contextvars.Context,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Any, BaseException | None]:
    if deadline is not None and time.monotonic() >= deadline:
        return None, _too_late()
    return context.run(_guarded, func, args, kwargs)


def _placed(func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> tuple[Any, int]:
    """Call *func*; return its result and the thread's identifier."""
    return func(*args, **kwargs), threading.get_ident()


def _guarded(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, BaseException | None]:
    """Call *func*; return its result and what it raised, since no future takes every exception."""
    try:
        return func(*args, **kwargs), None
    except BaseException as error:  # Rule 1
        return None, error


def _opened(outcome: tuple[Any, BaseException | None]) -> Any:
    result, error = outcome
    if error is None:
        return result
    if isinstance(error, StopIteration | GeneratorExit | asyncio.CancelledError):  # they mean something here
        raise RuntimeError(f"user code raised {type(error).__name__}") from error
    raise error
