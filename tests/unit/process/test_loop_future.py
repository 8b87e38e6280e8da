"""A caller that is interrupted at any line holds no lock that a loop needs."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from types import FrameType
from typing import Any

import pytest

from serve_bridge.process.loop_future import LoopFuture, run_on
from serve_bridge.process.loop_thread import LoopThread
from serve_bridge.process.unbreakable_locks import UnbreakableEvent

WAIT_S = 0.001


class TimeLimit(Exception):
    """What interrupts."""


def interrupted(work: Callable[[], object], step: int) -> bool:
    """Do *work*, but raise at its call or return number *step*. Return whether it had so many.

    Python runs the handlers of signals there, and between no other two steps of a `with` statement.
    """
    left = step

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal left
        left -= event in ("call", "return")
        if left == 0:
            raise TimeLimit
        return trace

    sys.settrace(trace)
    try:
        work()
    except (TimeLimit, TimeoutError, RuntimeError):  # RuntimeError: `Condition.wait` had given up its lock itself
        pass
    finally:
        sys.settrace(None)
    return left <= 0


def locked_at(wait: Callable[[], object], touch: Callable[[], object]) -> list[int]:
    """Interrupt *wait* at each step; return the first step after which *touch* hangs on another thread."""
    hanging, step = [], 1
    while interrupted(wait, step) and not hanging:
        other = threading.Thread(target=touch, daemon=True)
        other.start()
        other.join(20)
        if other.is_alive():
            hanging.append(step)
        step += 1
    assert hanging or step > 5
    return hanging


def test_an_interrupted_wait_for_a_future_keeps_no_lock() -> None:
    """Python's own future keeps its lock if the exception comes when the lock has just been taken."""
    future: Future[int] = LoopFuture()
    assert locked_at(lambda: future.result(WAIT_S), future.done) == []


def test_an_interrupted_wait_for_an_event_keeps_no_lock() -> None:
    """The same."""
    event = UnbreakableEvent()
    assert locked_at(lambda: event.wait(WAIT_S), event.clear) == []


@pytest.fixture(scope="module")
def loop() -> Any:
    """A loop on another thread."""
    thread = LoopThread("loop-future")
    yield thread.loop
    thread.stop()
    thread.join(20)


async def returned(value: Any) -> Any:
    """Return *value*, or raise it."""
    await asyncio.sleep(0)
    if isinstance(value, BaseException):
        raise value
    return value


def test_work_on_a_loop_gives_its_outcome(loop: asyncio.AbstractEventLoop) -> None:
    """A result, an error, or its cancellation."""
    assert run_on(loop, returned(1)).result(20) == 1
    with pytest.raises(LookupError, match="x"):
        run_on(loop, returned(LookupError("x"))).result(20)
    with pytest.raises(CancelledError):
        run_on(loop, returned(asyncio.CancelledError())).result(20)


def test_a_cancelled_future_cancels_its_work(loop: asyncio.AbstractEventLoop) -> None:
    """On its own loop."""
    begun, ended = threading.Event(), threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    future = run_on(loop, work())
    assert begun.wait(20)
    assert future.cancel()
    assert ended.wait(20)
