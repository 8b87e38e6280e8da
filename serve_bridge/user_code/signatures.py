"""The kind and the parameters of a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final

POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def is_async(func: object) -> bool:
    """Return whether *func* is an `async def`, with or without `yield`."""
    return inspect.iscoroutinefunction(func) or inspect.isasyncgenfunction(func)


def is_generator(func: object) -> bool:
    """Return whether *func* yields its results."""
    return inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func)


def parameters_of(func: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of *func*; a function in C without a signature counts as `*args`."""
    try:
        return list(inspect.signature(func).parameters.values())
    except (TypeError, ValueError):  # written in C, without a signature: only a call shows a wrong argument
        return [inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL)]
