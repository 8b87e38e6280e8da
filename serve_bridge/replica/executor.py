"""The executor of user code: `async def` runs on the replica's loop, `def` on its threads, marked methods in batches.

Rule 1: user code can raise any exception, SystemExit too. No exception of user code ends the loop or a thread.
Rule 2: a running `def` keeps its slot until its thread returns, even if the caller has left.
Rule 3: a request whose deadline passes before its turn does not begin.
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
"""Upper limit in seconds for a health probe to wait for its turn. After it, the replica counts as busy, not as ill."""
_DONE: Final = object()


class Executor:
    """Runs one replica's user code."""

    def __init__(self, code: LoadedCode, config: BackendConfig) -> None:
        self._code = code
        self._config = config
        self._threads = _user_threads(config)
        self._home = self._threads.pin()  # the thread of the constructor, if the code is not asynchronous
        self._probe: Future[Any] | None = None
        self._queues: dict[str, BatchQueue] = {}

    async def construct(self) -> None:
        """Construct the user's class in the thread of its calls, because its connections may be bound to a thread."""
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
        """Use the threads and the batch limits of *config* from now on."""
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
        """Return the result of *method*; for a generator, an asynchronous iterator of its items.

        Raises:
            BaseException: User code raised it.
            DeadlineExceeded: The deadline passed before the request's turn, so no user code ran.
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
        """Return the result of *hook*, a sync or async method such as `reconfigure` or `close`.

        The hook waits for its turn like a call: on the loop for asynchronous code, otherwise on the constructor's
        thread.
        """
        if self._code.is_async:
            result = opened(guarded(hook, args, {}))
        else:
            result = await self._at_home(hook, *args)
        return await awaited(result)

    async def probe(self, check: Callable[[], Any]) -> Any:
        """Return the result of *check*, the method `check_health`; True while it waits for its turn behind requests.

        A plain `def` runs on the constructor's thread, because it may use objects bound to that thread. A thread busy
        with a request is not ill: the probe keeps its place in the queue, and a later call returns its result.
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
        """Call *close*, then drop the user's instance in the thread of its constructor, where its `__del__` then runs.

        Raises:
            BaseException: *close* raised it; the instance is dropped all the same.
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
        """Cancel waiting calls and refuse new ones. A running thread goes on until its call returns."""
        self._threads.shutdown(cancel_futures=True)

    async def _at_home(self, func: Callable[..., Any], *args: Any) -> Any:
        """Return the result of *func*, called on the constructor's thread after the calls already waiting."""
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
        """Iterate *generator* on one thread of user code, and close it there: its objects may be bound to a thread.

        *thread* is the identifier of the preferred thread: it is used if it still runs.
        """
        deadline = request_deadline.get()
        # One context for all steps: a generator may enter a context manager in one step and leave it in another.
        context = contextvars.copy_context()
        pin = self._threads.pin(thread)
        try:
            while (item := await self._in_turn(pin, deadline, context, next, (generator, _DONE), {})) is not _DONE:
                # The generator has started. From now on, an expired deadline must not be reported as "not executed".
                deadline = None
                yield item
        finally:
            try:
                close = getattr(generator, "close", None)
                if close is not None:  # even if the request has ended
                    await uninterrupted(pin.submit(context.run, guarded, close, (), {}))
            finally:
                pin.release()


def is_stream(result: object) -> bool:
    """Return whether *result* of `Executor.run` yields items. The type decides, as in `is_awaitable`."""
    return hasattr(type(result), "__anext__")


def _user_threads(config: BackendConfig) -> DaemonThreads:
    return DaemonThreads(config.threads, "serve_bridge-user")
