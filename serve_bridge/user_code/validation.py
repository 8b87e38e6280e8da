"""The checks of a backend's code and options in the process that creates the backend.

Rule 1: faults that can be found here are refused here, before any replica starts.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.errors import ConfigError
from serve_bridge.user_code.application import Application, wrapper_of
from serve_bridge.user_code.batch_marks import accepts_batch
from serve_bridge.user_code.import_path import check_import_path
from serve_bridge.user_code.served_methods import attribute_of, hook_of, served_functions
from serve_bridge.user_code.signatures import POSITIONAL, VARIADIC, is_async, is_generator, parameters_of

__all__ = [
    "check_backend_code",
    "check_batching",
    "check_config",
]


def check_backend_code(
    func_or_class: object, init_args: Sequence[Any] = (), init_kwargs: Mapping[str, Any] | None = None
) -> None:
    """Refuse code which cannot be a backend.

    Of an import path only the form is checked, because its module may exist only for the replica.

    Raises:
        TypeError: The code is not a function, class, application or import path. Or it can never be called with a
            request. Or its constructor does not accept these arguments.
        ConfigError: An import path is malformed, or a function or application has constructor arguments. It is a
            ValueError.
    """
    if isinstance(func_or_class, str):
        check_import_path(func_or_class)
    elif isinstance(func_or_class, Application):
        if init_args or init_kwargs:
            raise ConfigError(f"{func_or_class!r} has no constructor to take arguments: it is an instance already")
    elif inspect.isclass(func_or_class):
        _check_class(func_or_class)
        _check_init(func_or_class, init_args, init_kwargs or {})
    elif inspect.isfunction(func_or_class):
        if init_args or init_kwargs:
            raise ConfigError(f"the function {func_or_class.__qualname__} has no constructor to take arguments")
        check_signature(func_or_class.__qualname__, func_or_class)
    else:
        raise TypeError(
            "a backend is a function, a class, an import path 'package.module:Attr', or an application in "
            f"serve.asgi_app() or serve.wsgi_app(); got {described(func_or_class)}"
        )


def check_batching(func_or_class: object, config: BackendConfig) -> None:
    """Refuse a batch size for code without batches. The replica checks the code of an import path.

    Raises:
        ConfigError: `max_batch_size` is above 1, and no function is marked by `accept_batch`. It is a ValueError.
    """
    if (config.max_batch_size or 1) > 1 and not isinstance(func_or_class, str):
        funcs = served_functions(func_or_class, None).values() if inspect.isclass(func_or_class) else (func_or_class,)
        if not any(accepts_batch(func) for func in funcs):
            raise ConfigError(
                f"max_batch_size={config.max_batch_size} needs code that takes a list of requests; "
                "mark it with @serve.accept_batch"
            )


def check_config(func_or_class: object, config: BackendConfig) -> None:
    """Refuse options which the code does not support. The replica checks the code of an import path.

    Raises:
        ConfigError: As `check_batching`. Or `exposed_methods` has a name which is not a method. Or there is a
            `user_config` but no `reconfigure`. It is a ValueError.
    """
    if isinstance(func_or_class, str):
        return
    if isinstance(func_or_class, Application):
        _check_application_config(func_or_class, config)
        return
    check_batching(func_or_class, config)
    if inspect.isclass(func_or_class):
        served_functions(func_or_class, config.exposed_methods)
    elif config.exposed_methods:
        raise ConfigError("exposed_methods: a function has no methods to expose")
    if config.user_config is not None and hook_of(func_or_class, "reconfigure") is None:
        raise ConfigError("user_config needs a class with a method `reconfigure(self, user_config)`")


def _check_application_config(application: Application, config: BackendConfig) -> None:
    for option, is_default in (
        ("max_batch_size", (config.max_batch_size or 1) == 1),
        ("user_config", config.user_config is None),
        ("exposed_methods", config.exposed_methods is None),
    ):
        if not is_default:
            raise ConfigError(f"{option} has no effect on {application!r}: an application answers HTTP itself")


def _check_class(cls: type) -> None:
    name = cls.__qualname__
    if cls.__module__ == "builtins":
        raise TypeError(f"a backend is your own code, got the builtin class {name}")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
        raise TypeError(f"the class {name} is abstract: it does not implement {missing}")
    init = cls.__init__  # type: ignore[misc]
    if is_async(init) or is_generator(init):
        raise TypeError(f"{name}.__init__ must be a plain `def`: its result would never be awaited or iterated")
    served = served_functions(cls, None)
    if not served:
        raise TypeError(f"the class {name} has no `__call__` and no public methods, so nothing to serve")
    for method in served:
        # Bound to a stand-in, so the signature lacks `self`, as callers see it.
        func = attribute_of(cls, method).__get__(object(), cls)
        check_signature(f"{name}.{method}", func, default=method == "__call__")


def _check_init(cls: type, init_args: Sequence[Any], init_kwargs: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(cls)
    except (TypeError, ValueError):  # written in C: only a call shows a wrong argument
        return
    try:
        signature.bind(*init_args, **init_kwargs)
    except TypeError as error:
        raise TypeError(f"{cls.__qualname__}{signature} does not take these arguments: {error}") from None


def described(value: object) -> str:
    """Return the kind of *value* in words, with a way out, but without its content."""
    if isinstance(value, functools.partial):
        return "a functools.partial; wrap it in a function"
    if inspect.ismethod(value):
        return f"the bound method {value.__qualname__}; pass its class"
    if inspect.isbuiltin(value):
        return f"the builtin function {value.__qualname__}; wrap it in a function"
    if inspect.iscoroutine(value):
        return f"a coroutine object; pass the function {value.__qualname__} without calling it"
    if inspect.ismodule(value):
        return f"the module {value.__name__}"
    kind = type(value)
    wrapper = wrapper_of(value)
    way_out = "pass a class or a function" if wrapper is None else f"wrap it: serve.{wrapper}(app)"
    return f"an instance of {kind.__module__}.{kind.__qualname__}; {way_out}"


_OF_APPLICATIONS: Final = (["receive", "send"], ["start_response"])


def check_signature(name: str, func: Callable[..., Any], *, default: bool = True) -> None:
    """Refuse a signature which does not fit any request.

    Args:
        name: Name of the callable for error messages.
        func: The bound callable.
        default: Whether *func* is a function or a `__call__`. Callers cannot pass keywords to these.

    Raises:
        TypeError: *func* needs more arguments than the request. Or it is marked for batches, but yields or has no
            argument.
    """
    parameters = parameters_of(func)
    positional = [p for p in parameters if p.kind in POSITIONAL]
    if accepts_batch(func) and (is_generator(func) or not parameters):
        raise TypeError(f"{name} accepts batches, so it must take a list and return one, not yield")
    if default:
        needed = [p.name for p in parameters if p.default is p.empty and p.kind not in VARIADIC]
        spare = [n for n in needed if not positional or n != positional[0].name]
        if spare:
            hint = (
                "; an application goes into serve.asgi_app() or serve.wsgi_app()" if spare in _OF_APPLICATIONS else ""
            )
            raise TypeError(f"{name} is called with the request alone, but needs {', '.join(spare)} too{hint}")
