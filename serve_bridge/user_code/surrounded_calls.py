"""Calls of user code within surroundings."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from types import AsyncGeneratorType, GeneratorType
from typing import Any

from starlette.concurrency import iterate_in_threadpool
from starlette.responses import StreamingResponse

from serve_bridge.user_code.awaitables import awaited, is_awaitable
from serve_bridge.user_code.streaming_response import threaded_content
from serve_bridge.user_code.surroundings import Surroundings


def within(surroundings: Surroundings, func: Callable[..., Any]) -> Callable[..., Any]:
    """Return *func*, a bound callable of user code, as a callable which runs within *surroundings*."""
    if inspect.isasyncgenfunction(func):
        return _within_items_async(surroundings, func)
    if inspect.iscoroutinefunction(func):
        return _within_async(surroundings, func)
    if inspect.isgeneratorfunction(func):

        @functools.wraps(func)
        def begun(*args: Any, **kwargs: Any) -> Any:
            return _iterated(surroundings, func(*args, **kwargs))  # none of its code has run yet

        return begun

    @functools.wraps(func)
    def called(*args: Any, **kwargs: Any) -> Any:
        with surroundings.around():
            result = func(*args, **kwargs)
        if is_awaitable(result):  # a lambda around an `async def`
            return _awaited(surroundings, result)
        return _covered(surroundings, result)

    return called


def _within_async(surroundings: Surroundings, func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    async def called(*args: Any, **kwargs: Any) -> Any:
        async with surroundings.around_async():
            result = await awaited(func(*args, **kwargs))
        return _covered(surroundings, result)

    return called


def _within_items_async(surroundings: Surroundings, func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    async def called(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async with aclosing(_iterated_async(surroundings, func(*args, **kwargs))) as items:
            async for item in items:
                yield item

    return called


def _covered(surroundings: Surroundings, result: Any) -> Any:
    """Return *result*. If it is iterated after the call, its iteration runs within *surroundings*, too."""
    kind = type(result)
    if kind is GeneratorType:
        return _iterated(surroundings, result)
    if kind is AsyncGeneratorType:
        return _iterated_async(surroundings, result)
    if isinstance(result, StreamingResponse):
        content = threaded_content(result)
        if content is not None:
            result.body_iterator = iterate_in_threadpool(_iterated(surroundings, content))
        else:
            result.body_iterator = _iterated_async(surroundings, result.body_iterator)
    return result


def _iterated(surroundings: Surroundings, items: Iterator[Any]) -> Iterator[Any]:
    with surroundings.around():
        try:
            yield from items
        finally:
            close = getattr(items, "close", None)  # `yield from` closes an iterator only when it is closed itself
            if close is not None:
                close()


async def _iterated_async(surroundings: Surroundings, items: Any) -> AsyncGenerator[Any, None]:
    async with surroundings.around_async():
        try:
            async for item in items:
                yield item
        finally:
            aclose = getattr(items, "aclose", None)
            if aclose is not None:
                await aclose()


async def _awaited(surroundings: Surroundings, result: Awaitable[Any]) -> Any:
    async with surroundings.around_async():
        found = await awaited(result)
    return _covered(surroundings, found)
