"""Where user code runs: `async def` on the replica's loop, `def` on its threads, marked methods in batches.

Rule 1: user code can raise anything, SystemExit too; nothing of it ends the loop or a thread.
Rule 2: a `def` that has begun keeps its place until its thread returns, whatever became of the caller.
Rule 3: what has expired before its turn is not begun.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from types import GeneratorType
from typing import Any, Final

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.context import request_deadline
from serve_bridge.process.daemon_threads import DaemonThreads, Pin
from serve_bridge.replica.batches import BatchItem, WantedItems, batch_limits, batches_ahead
from serve_bridge.replica.guarded_calls import guarded, opened, run_in_time, uninterrupted, with_thread
from serve_bridge.replica.loaded_code import LoadedCode
from serve_bridge.user_code.awaitables import awaited, is_awaitable
from serve_bridge.user_code.batch_queue import BatchQueue
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
                limits = batch_limits(self._config)
                queue = self._queues[method.name] = BatchQueue(self._batch_runner(method), *limits)
                queue.ahead = batches_ahead(method, self._config)

    def configure(self, config: BackendConfig) -> None:
        """Follow changed options: threads and batch limits."""
        if config.threads != self._config.threads:
            self._home.release()
            self._threads.shutdown()
            self._threads = _user_threads(config)
            self._home = self._threads.pin()
        for name, queue in self._queues.items():
            queue.ahead = batches_ahead(self._code.methods[name], config)
            queue.reconfigure(*batch_limits(config))
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
            result, thread = await self._in_thread(with_thread, method.func, *args, **kwargs)
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
            result = opened(guarded(hook, args, {}))
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
            self._probe = self._home.submit(context.run, guarded, check, (), {})
        probe = self._probe
        outcome = asyncio.wrap_future(probe)
        await asyncio.wait([outcome], timeout=TURN_S)
        if not outcome.done() and not probe.running():
            return True
        result = await asyncio.shield(outcome)
        self._probe = None
        return await awaited(opened(result))

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
        item = BatchItem(value)
        try:
            return await queue.submit(item)
        finally:
            item.wanted = False

    def _batch_runner(self, method: Method) -> Callable[[list[BatchItem]], Any]:
        async def run(items: list[BatchItem]) -> Sequence[Any]:
            if method.is_async:
                return await awaited(method.func([item.value for item in items]))  # type: ignore[no-any-return]  # checked later
            run = WantedItems(items)
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
        future = threads.submit(run_in_time, deadline, context, func, args, kwargs)
        return opened(await uninterrupted(future))

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
                    await uninterrupted(pin.submit(context.run, guarded, close, (), {}))
            finally:
                pin.release()


def is_stream(result: object) -> bool:
    """Return whether *result* of `Executor.run` yields items. The type decides, as in `is_awaitable`."""
    return hasattr(type(result), "__anext__")


def _user_threads(config: BackendConfig) -> DaemonThreads:
    return DaemonThreads(config.threads, "serve_bridge-user")
