"""Calls of user code whose exceptions cannot end a thread or the loop.

Rule 1: a call returns its result and its exception as a pair, because a future does not accept every exception.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from serve_bridge.errors import DeadlineExceeded


def too_late() -> DeadlineExceeded:
    """Return the error for a request whose time was up before its code could begin."""
    return DeadlineExceeded("the time was up before a thread was free", "no")


async def uninterrupted(future: Future[Any]) -> Any:
    """Wait for *future*. On cancellation, withdraw it if it has not begun; otherwise wait for its end first."""
    wrapped = asyncio.wrap_future(future)
    try:
        return await asyncio.shield(wrapped)
    except asyncio.CancelledError:
        if not future.cancel():
            await _settled(wrapped)
        raise


async def _settled(future: asyncio.Future[Any]) -> None:
    """Wait for *future*, even if the waiting task is cancelled again and again."""
    while not future.done():
        with suppress(asyncio.CancelledError):  # the task is being cancelled already
            await asyncio.wait([future])


def run_in_time(
    deadline: float | None,
    context: contextvars.Context,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Any, BaseException | None]:
    """Call *func* in *context* as `guarded` does; if *deadline* has passed, return `too_late()` and do not call it."""
    if deadline is not None and time.monotonic() >= deadline:
        return None, too_late()
    return context.run(guarded, func, args, kwargs)


def with_thread(func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> tuple[Any, int]:
    """Call *func*; return its result and the identifier of this thread."""
    return func(*args, **kwargs), threading.get_ident()


def guarded(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, BaseException | None]:
    """Call *func*; return its result and its exception, because a future does not accept every exception."""
    try:
        return func(*args, **kwargs), None
    except BaseException as error:  # Rule 1
        return None, error


def opened(outcome: tuple[Any, BaseException | None]) -> Any:
    """Return the result of a guarded call, or raise its error.

    Raises:
        RuntimeError: User code raised an exception that has a meaning for coroutines, such as StopIteration.
        BaseException: Any other exception of user code.
    """
    result, error = outcome
    if error is None:
        return result
    if isinstance(error, StopIteration | GeneratorExit | asyncio.CancelledError):  # to a coroutine, they are signals
        raise RuntimeError(f"user code raised {type(error).__name__}") from error
    raise error
