"""Waiting for a condition instead of sleeping for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

_Value = TypeVar("_Value")
POLL_S = 0.01


def wait_until(condition: Callable[[], _Value], timeout_s: float = 20.0) -> _Value:
    """Call *condition* until it returns something true; return that.

    Raises:
        AssertionError: It did not within *timeout_s*.
    """
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"nothing true within {timeout_s:g} s: {condition}"
        time.sleep(POLL_S)
    return value


def wait_until_equal(value: Callable[[], _Value], expected: _Value, timeout_s: float = 20.0) -> None:
    """Call *value* until it returns *expected*.

    Raises:
        AssertionError: It did not within *timeout_s*; the message has what it returned last.
    """
    deadline = time.monotonic() + timeout_s
    while (found := value()) != expected:
        assert time.monotonic() < deadline, f"not {expected!r} within {timeout_s:g} s, but {found!r}"
        time.sleep(POLL_S)


async def reached(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Wait on an event loop until *condition* returns something true.

    Raises:
        TimeoutError: It did not within *timeout_s*.
    """
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another process
            await asyncio.sleep(POLL_S)
