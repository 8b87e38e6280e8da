"""Awaitable results of user code."""

from __future__ import annotations

from typing import Any


def is_awaitable(value: object) -> bool:
    """Return whether *value* is to be awaited. The type decides: an object may answer every attribute name."""
    return hasattr(type(value), "__await__")


async def awaited(result: Any) -> Any:
    """Return what *result* of user code comes to: a decorator may return an awaitable from a coroutine."""
    while is_awaitable(result):
        result = await result
    return result
