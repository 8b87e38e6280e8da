"""The mark of a function that takes a list of requests."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final, TypeVar

_MARK: Final = "__serve_bridge_accepts_batch__"
Callable_ = TypeVar("Callable_", bound=Callable[..., Any])


def accept_batch(func: Callable_) -> Callable_:
    """Mark a function, or a method of a backend's class, which takes a list of requests.

    The function returns one result for each request, in order. An exception among them fails only its own caller.

    Raises:
        TypeError: *func* is a class or cannot be called.
    """
    target = func.__func__ if isinstance(func, staticmethod | classmethod) else func
    if inspect.isclass(target) or not callable(target):
        raise TypeError(f"accept_batch marks a function or method, got {target!r}; mark the class's __call__")
    setattr(target, _MARK, True)
    return func


def accepts_batch(func: object) -> bool:
    """Return whether `accept_batch` marks the function or bound method."""
    return getattr(func, _MARK, False) is True
