"""`serve.batch`: a decorator that makes concurrent calls of an `async def` run as one."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar, overload

from serve_bridge.user_code.batch_queue import BatchQueue, check_limits

Item = TypeVar("Item")
Result = TypeVar("Result")
Owner = TypeVar("Owner")


class BatchDecorator(Protocol):
    """The result of `batch`: it turns code for a list into code for one item."""

    @overload
    def __call__(
        self, func: Callable[[list[Item]], Awaitable[Sequence[Result]]], /
    ) -> Callable[[Item], Coroutine[Any, Any, Result]]: ...

    @overload
    def __call__(
        self, func: Callable[[Owner, list[Item]], Awaitable[Sequence[Result]]], /
    ) -> Callable[[Owner, Item], Coroutine[Any, Any, Result]]: ...


def batch(max_batch_size: int = 10, batch_wait_timeout_s: float = 0.0) -> BatchDecorator:
    """Decorate an `async def` with one argument: concurrent calls then run as one call, with a list of arguments.

    Each instance of a class, and each event loop, has a queue of its own.

    Args:
        max_batch_size: Upper limit for the items of a batch, at least 1.
        batch_wait_timeout_s: Upper limit in seconds for the first item to wait for more items.

    Raises:
        ConfigError: A limit is out of range.
        TypeError: The decorated function is not an `async def`, or does not take exactly one list.
    """
    if callable(max_batch_size):
        raise TypeError("write @serve.batch() with parentheses")
    check_limits(max_batch_size, batch_wait_timeout_s)

    def decorate(func: Any) -> Any:
        if not inspect.iscoroutinefunction(func):
            raise TypeError(f"serve.batch decorates an `async def`, got {func!r}")
        parameters = list(inspect.signature(func).parameters.values())
        if not 1 <= len(parameters) <= 2 or any(p.kind not in _POSITIONAL for p in parameters):
            raise TypeError(f"{func.__qualname__} must take one list of items, after `self` if it is a method")
        queues = _Queues(func, max_batch_size, batch_wait_timeout_s)
        item_name = parameters[-1].name

        if len(parameters) == 1:

            @functools.wraps(func)
            async def call_function(*args: Any, **kwargs: Any) -> Any:
                (item,) = _positional(func, item_name, args, kwargs, 1)
                return await queues.of(None).submit(item)

            return call_function

        @functools.wraps(func)
        async def call_method(*args: Any, **kwargs: Any) -> Any:
            instance, item = _positional(func, item_name, args, kwargs, 2)
            return await queues.of(instance).submit(item)

        return call_method

    return decorate


class _Queues:
    """The queues of one decorated function: one for each event loop and instance.

    The queue refers to its instance weakly, so both can be collected. The frame of a waiting call keeps it alive.
    An instance with `__slots__` may not allow weak references. Its queue is dropped as soon as it is idle.
    """

    def __init__(self, func: Callable[..., Awaitable[Any]], max_batch_size: int, wait_timeout_s: float) -> None:
        self._func = func
        self._limits = (max_batch_size, wait_timeout_s)
        self._lock = threading.Lock()
        self._by_loop: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, dict[int, tuple[weakref.ref[Any] | None, BatchQueue]]
        ] = weakref.WeakKeyDictionary()

    def of(self, instance: object) -> BatchQueue:
        """Return the queue of *instance* on the running loop; None: the queue of the function itself."""
        loop = asyncio.get_running_loop()
        queues = self._by_loop.get(loop)
        if queues is None:
            with self._lock:
                queues = self._by_loop.setdefault(loop, {})
        known = queues.get(id(instance))
        if known is None:
            known = queues[id(instance)] = self._new(instance, queues)
        return known[1]

    def _new(
        self, instance: object, queues: dict[int, tuple[weakref.ref[Any] | None, BatchQueue]]
    ) -> tuple[weakref.ref[Any] | None, BatchQueue]:
        func = self._func
        if instance is None:
            return None, BatchQueue(func, *self._limits)
        key = id(instance)

        def forget(_: object = None) -> None:
            queues.pop(key, None)

        try:
            held = weakref.ref(instance, forget)
        except TypeError:
            return None, BatchQueue(functools.partial(func, instance), *self._limits, on_idle=forget)

        async def run(items: list[Any]) -> Sequence[Any]:
            results: Sequence[Any] = await func(held(), items)
            return results

        return held, BatchQueue(run, *self._limits)

    def __reduce__(self) -> tuple[Any, ...]:
        # The code is pickled for its replica, which makes queues, locks and loops of its own.
        return _Queues, (self._func, *self._limits)


_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _positional(
    func: Callable[..., Any], item_name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], count: int
) -> tuple[Any, ...]:
    if len(args) == count and not kwargs:
        return args
    if len(args) == count - 1 and kwargs.keys() == {item_name}:
        return (*args, kwargs[item_name])
    raise TypeError(f"{func.__qualname__} takes exactly one item, as {item_name!r} or by position")
