"""The watch for times in which a loop stood still."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from serve_bridge.replica import stall_watch
from serve_bridge.replica.stall_watch import StallWatch
from tests.support.waiting import reached

STALL_S = 0.2


@contextmanager
def watching() -> Iterator[StallWatch]:
    """Watch the running loop."""
    watch = StallWatch()
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()


@pytest.fixture(autouse=True)
def short_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stall that a test can wait for."""
    monkeypatch.setattr(stall_watch, "STALL_S", STALL_S)


def block() -> None:
    """Block the loop for longer than a stall."""
    time.sleep(1.5 * STALL_S)


def test_a_blocked_loop_has_stalled() -> None:
    """User code that sleeps in the loop is enough."""

    async def scenario() -> bool:
        with watching() as watch:
            block()
            return watch.has_stalled()

    assert asyncio.run(scenario())


def test_a_stall_is_over_some_time_after_the_loop_runs_again() -> None:
    """Until then, a request may have been read late."""

    async def scenario() -> None:
        with watching() as watch:
            block()
            await asyncio.sleep(0.01)
            assert watch.has_stalled()
            await reached(lambda: not watch.has_stalled())

    asyncio.run(scenario())
