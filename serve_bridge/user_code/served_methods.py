"""The methods of a backend's class which callers may name, and its hooks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any, Final

from serve_bridge.errors import ConfigError
from serve_bridge.user_code.application import Application
from serve_bridge.user_code.signatures import is_async

_HOOKS: Final = frozenset(("reconfigure", "check_health"))


def is_async_code(func_or_class: object, exposed_methods: Collection[str] | None = None) -> bool:
    """Return whether a function, a class's `__call__`, or an application is asynchronous; False for an import path.

    A class without `__call__` is asynchronous if one of its served methods is. Its plain methods run on threads, like
    every `def`.
    """
    if isinstance(func_or_class, str):
        return False
    if isinstance(func_or_class, Application):
        return func_or_class.is_async
    if not inspect.isclass(func_or_class):
        return is_async(func_or_class)
    funcs = served_functions(func_or_class, exposed_methods)
    if "__call__" in funcs:
        return is_async(funcs["__call__"])
    return any(is_async(func) for func in funcs.values())


def served_functions(cls: type, exposed_methods: Collection[str] | None) -> dict[str, Callable[..., Any]]:
    """Return the functions of *cls* open to calls, by name, `__call__` first.

    Raises:
        ConfigError: *exposed_methods* has a name which is not a public method.
    """
    if exposed_methods is None:
        bases = [base for base in cls.__mro__ if base is not object]
        names = dict.fromkeys(name for base in bases for name in vars(base))
        hooks = {*_HOOKS, "close"} if has_close_hook(cls) else _HOOKS
        public = [name for name in names if not name.startswith("_") and name not in hooks]
        found = {name: _static_function(cls, name) for name in ["__call__", *public]}
        return {name: func for name, func in found.items() if func is not None}
    served = {"__call__": _static_function(cls, "__call__")}
    for name in exposed_methods:
        served[name] = None if name.startswith("_") else _static_function(cls, name)
        if served[name] is None:
            raise ConfigError(f"exposed_methods: {name!r} is not a public method of {cls.__qualname__}")
    return {name: func for name, func in served.items() if func is not None}


def _static_function(cls: type, name: str) -> Callable[..., Any] | None:
    """Return the function behind the method *name* of *cls*; None if *name* is not a method, or is written in C."""
    found = attribute_of(cls, name)
    while isinstance(found, staticmethod | classmethod):
        found = found.__func__
    return found if _is_function(found) else None


def _is_function(value: Any) -> bool:
    """Return whether *value* is a Python function, or wraps one and binds like it, as `functools.cache` does.

    A `functools.partial` does not count: whether it binds depends on the version of Python.
    """
    if isinstance(value, functools.partial) or inspect.isclass(value) or not hasattr(type(value), "__get__"):
        return False
    return callable(value) and hasattr(inspect.unwrap(value), "__code__")


def attribute_of(cls: type, name: str) -> Any:
    """Return the attribute *name* as written in the body of *cls*, not bound; None if there is none."""
    # `inspect.getattr_static` would find the `__call__` of a metaclass.
    return next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)


def has_close_hook(cls: type) -> bool:
    """Return whether `close` of *cls* is a hook. With arguments it is a method for callers."""
    if _static_function(cls, "close") is None:
        return False
    try:
        inspect.signature(attribute_of(cls, "close").__get__(object(), cls)).bind()
    except (TypeError, ValueError):
        return False
    return True


def hook_of(owner: object, name: str) -> Callable[..., Any] | None:
    """Return the method *name* of *owner*, a class or an instance; None if *name* is not a method there."""
    cls = owner if inspect.isclass(owner) else type(owner)
    return getattr(owner, name) if _static_function(cls, name) is not None else None
