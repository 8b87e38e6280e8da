"""Awaitable results of user code."""

from __future__ import annotations

from typing import Any


def is_awaitable(value: object) -> bool:
    """Return whether *value* can be awaited. The type decides: an object may answer each attribute name."""
    return hasattr(type(value), "__await__")


async def awaited(result: Any) -> Any:
    """Return *result* of user code after awaiting it. A decorator may return an awaitable, so it awaits again."""
    while is_awaitable(result):
        result = await result
    return result
