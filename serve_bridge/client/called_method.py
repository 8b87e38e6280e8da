"""A method of a backend's class as typed handles call it: its name, and the names of its parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from serve_bridge.printable import shown


def name_of_method(method: Callable[..., Any]) -> str:
    """Return the name by which callers name *method*.

    Raises:
        TypeError: *method* is not a function of a class body.
    """
    name = getattr(method, "__name__", None)
    if inspect.ismethod(method):
        raise TypeError(
            f"{shown(method)} is bound already: pass a method of the class, such as Mood.count. For a class method use "
            f"handle.options(method_name={name!r})"
        )
    if not inspect.isroutine(method) or not isinstance(name, str):
        raise TypeError(f"expected a method of the backend's class, such as Mood.count, got {shown(method)}")
    return name


def positional_names(method: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of the positional parameters of *method*, without `self` and the first one after it.

    Raises:
        TypeError: One of them cannot be passed by name, so no call can set it.
    """
    own = list(inspect.signature(method).parameters.values())[2:]
    for each in own:
        if each.kind is each.POSITIONAL_ONLY and each.default is each.empty:
            raise TypeError(
                f"{method.__qualname__}: {each.name!r} is positional only, and no call can set it: the first argument "
                "travels as the data of a call, and every other one by name"
            )
    return tuple(each.name for each in own if each.kind is each.POSITIONAL_OR_KEYWORD)
