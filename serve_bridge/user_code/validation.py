"""What a backend runs: a function or class of the user, checked in the caller, constructed in the replica.

Rule 1: what can be refused is refused in the caller, before anything starts.
Rule 2: which methods can be called, and what each receives, is decided once, from the class.
Rule 3: a name from the wire is a key of `UserCode.methods`, never an argument of `getattr`.
"""

from __future__ import annotations

import functools
import gc
import inspect
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.errors import ConfigError
from serve_bridge.user_code.application import Application, wrapper_of
from serve_bridge.user_code.batch_queue import accepts_batch
from serve_bridge.user_code.frozen_code import FrozenCode
from serve_bridge.user_code.import_path import check_import_path, extend_search_path, resolve
from serve_bridge.user_code.method import Method, check_signature, is_async, is_generator
from serve_bridge.user_code.surroundings import Surroundings, open_surroundings, within

__all__ = [
    "UserCode",
    "check_backend_code",
    "check_batching",
    "check_config",
    "is_async_code",
]

_HOOKS: Final = frozenset(("reconfigure", "check_health"))

# --- In the caller: is this code a backend?


def check_backend_code(
    func_or_class: object, init_args: Sequence[Any] = (), init_kwargs: Mapping[str, Any] | None = None
) -> None:
    """Refuse what cannot be a backend.

    An import path is only looked at as text: the module may exist in the replica alone.

    Raises:
        TypeError: It is no function, class or import path; or can never be called with a request; or its
            constructor does not take these arguments.
        ConfigError: An import path is malformed, or a function or application came with constructor arguments. It
            is a ValueError.
    """
    if isinstance(func_or_class, str):
        check_import_path(func_or_class)
    elif isinstance(func_or_class, Application):
        if init_args or init_kwargs:
            raise ConfigError(f"{func_or_class!r} has no constructor to take arguments; an application comes made")
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
            f"serve.asgi_app() or serve.wsgi_app(); got {_described(func_or_class)}"
        )


def check_batching(func_or_class: object, config: BackendConfig) -> None:
    """Refuse a batch size for code that takes no batches; an import path is checked where it is loaded.

    Raises:
        ConfigError: `max_batch_size` is above 1 and nothing has the mark `accept_batch`. It is a ValueError.
    """
    if (config.max_batch_size or 1) > 1 and not isinstance(func_or_class, str):
        funcs = _served(func_or_class, None).values() if inspect.isclass(func_or_class) else (func_or_class,)
        if not any(accepts_batch(func) for func in funcs):
            raise ConfigError(
                f"max_batch_size={config.max_batch_size} needs code that takes a list of requests; "
                "mark it with @serve.accept_batch"
            )


def check_config(func_or_class: object, config: BackendConfig) -> None:
    """Refuse options that the code cannot follow; an import path is checked where it is loaded.

    Raises:
        ConfigError: As `check_batching`; or `exposed_methods` names what is no method; or there is a
            `user_config` and no `reconfigure`. It is a ValueError.
    """
    if isinstance(func_or_class, str):
        return
    if isinstance(func_or_class, Application):
        _check_application_config(func_or_class, config)
        return
    check_batching(func_or_class, config)
    if inspect.isclass(func_or_class):
        _served(func_or_class, config.exposed_methods)
    elif config.exposed_methods:
        raise ConfigError("exposed_methods: a function has no methods to expose")
    if config.user_config is not None and _hook(func_or_class, "reconfigure") is None:
        raise ConfigError("user_config needs a class with a method `reconfigure(self, user_config)`")


def _check_application_config(application: Application, config: BackendConfig) -> None:
    for option, is_default in (
        ("max_batch_size", (config.max_batch_size or 1) == 1),
        ("user_config", config.user_config is None),
        ("exposed_methods", config.exposed_methods is None),
    ):
        if not is_default:
            raise ConfigError(f"{option} means nothing to {application!r}: an application answers HTTP, by itself")


def is_async_code(func_or_class: object, exposed_methods: Collection[str] | None = None) -> bool:
    """Return whether the function, the class's `__call__` or the application is asynchronous; an import path is not.

    A class without `__call__` is asynchronous if one of its served methods is: the others are helpers, and run on
    threads as every `def` does.
    """
    if isinstance(func_or_class, str):
        return False
    if isinstance(func_or_class, Application):
        return func_or_class.is_async
    if not inspect.isclass(func_or_class):
        return is_async(func_or_class)
    funcs = _served(func_or_class, exposed_methods)
    if "__call__" in funcs:
        return is_async(funcs["__call__"])
    return any(is_async(func) for func in funcs.values())


def _check_class(cls: type) -> None:
    name = cls.__qualname__
    if cls.__module__ == "builtins":
        raise TypeError(f"a backend is code of yours, got the builtin class {name}")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
        raise TypeError(f"the class {name} is abstract: it does not implement {missing}")
    init = cls.__init__  # type: ignore[misc]
    if is_async(init) or is_generator(init):
        raise TypeError(f"{name}.__init__ must be a plain `def`: its result would never be awaited or iterated")
    served = _served(cls, None)
    if not served:
        raise TypeError(f"the class {name} has no `__call__` and no public methods, so nothing to serve")
    for method in served:
        # Bound to a stand-in, so that the signature is the one callers see.
        func = _attribute(cls, method).__get__(object(), cls)
        check_signature(f"{name}.{method}", func, default=method == "__call__")


def _check_init(cls: type, init_args: Sequence[Any], init_kwargs: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(cls)
    except (TypeError, ValueError):  # written in C: only calling it can tell
        return
    try:
        signature.bind(*init_args, **init_kwargs)
    except TypeError as error:
        raise TypeError(f"{cls.__qualname__}{signature} does not take these arguments: {error}") from None


def _described(value: object) -> str:
    """Return what *value* is, in words, without its value."""
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


# --- In the replica


class UserCode:
    """The code of one replica.

    Attributes:
        code: The function, class or application, import paths of the first two resolved.
        is_async: Whether it is asynchronous, as `is_async_code` says.
        methods: What may be called, by name; empty until `construct` has run.
        reconfigure: The bound method of that name, sync or async; None if there is none.
        check_health: The same.
        close: The same, of one that can be called without arguments.
        application: The application itself, once `construct` has run; None where the code is none.

    With surroundings all of these run within them, and so does the constructor.
    """

    def __init__(
        self,
        code: Callable[..., Any] | Application,
        init_args: Sequence[Any] = (),
        init_kwargs: Mapping[str, Any] | None = None,
        *,
        exposed_methods: Collection[str] | None = None,
        surroundings: Surroundings | None = None,
    ) -> None:
        self.code = code
        self._surroundings = surroundings
        self.is_async = is_async_code(code, exposed_methods)
        self.methods: Mapping[str, Method] = {}
        self.reconfigure: Callable[[Any], Any] | None = None
        self.check_health: Callable[[], Any] | None = None
        self.close: Callable[[], Any] | None = None
        self.application: Any = None
        self._init_args = tuple(init_args)
        self._init_kwargs = dict(init_kwargs or {})
        self._served = tuple(_served(code, exposed_methods)) if inspect.isclass(code) else ()

    @property
    def streaming(self) -> tuple[str, ...]:
        """The methods that read the body of a request while it comes; the others need the whole body."""
        if isinstance(self.code, Application):
            return ("__call__",) if self.is_async else ()
        return tuple(
            name
            for name, method in self.methods.items()
            if method.is_async and method.takes == "request" and not method.batched
        )

    @classmethod
    def load(cls, blob: bytes, *, exposed_methods: Collection[str] | None = None) -> UserCode:
        """Return the code that `freeze_code` wrote, checked again where an import path names it.

        Its surroundings, if it has any, are opened first.

        Raises:
            ImportError: The module of an import path is missing or fails.
            AttributeError: It has no such attribute.
            TypeError: What is there is no backend.
            ConfigError: `exposed_methods` names what is no method.
            BaseException: What its surroundings raise.
        """
        frozen = FrozenCode.of(blob)
        extend_search_path(frozen.search_path)
        surroundings = None if frozen.surroundings is None else open_surroundings(frozen.surroundings)
        code, args, kwargs = frozen.thaw()
        if isinstance(code, str):
            code = resolve(code)
            if isinstance(code, str):
                raise TypeError("an import path must name a function or a class, not another str")
            if isinstance(code, Application):
                raise TypeError(f"an import path must name a function or a class; pass {code!r} itself")
            check_backend_code(code, args, kwargs)
        return cls(code, args, kwargs, exposed_methods=exposed_methods, surroundings=surroundings)

    def construct(self) -> None:
        """Make the instance and bind its methods; runs the user's constructor on this thread.

        Raises:
            TypeError: The constructor returned something; or `__new__` made an instance of another class.
            BaseException: Whatever the constructor raises.
        """
        if self._surroundings is None:
            self._construct()
        else:
            with self._surroundings.around():
                self._construct()

    async def aconstruct(self) -> None:
        """Same as `construct`, on the running loop, for asynchronous code."""
        if self._surroundings is None:
            self._construct()
        else:
            async with self._surroundings.around_async():
                self._construct()

    def _construct(self) -> None:
        if isinstance(self.code, Application):
            self.application = self.code.load()
            self.methods = {"__call__": Method.of("__call__", _refuse_call, default=True)}
            return
        if not inspect.isclass(self.code):
            self.methods = {"__call__": self._method("__call__", self.code)}
            return
        instance = self.code(*self._init_args, **self._init_kwargs)
        if not isinstance(instance, self.code):
            raise TypeError(f"{self.code.__qualname__}() made {_described(instance)}")
        self.methods = types.MappingProxyType(
            {name: self._method(name, getattr(instance, name)) for name in self._served}
        )
        self.reconfigure = self._within(_hook(instance, "reconfigure"))
        self.check_health = self._within(_hook(instance, "check_health"))
        self.close = self._within(_hook(instance, "close") if _closes(self.code) else None)
        self._init_args, self._init_kwargs = (), {}  # the instance holds what it needs of them

    def drop(self) -> None:
        """Let go of the user's instance, also where it is part of a cycle; runs its `__del__` on this thread."""
        self.methods = {}
        self.reconfigure = self.check_health = self.close = None
        gc.collect()

    def _method(self, name: str, func: Callable[..., Any]) -> Method:
        method = Method.of(name, func, default=name == "__call__")
        return method if self._surroundings is None else replace(method, func=within(self._surroundings, func))

    def _within(self, hook: Callable[..., Any] | None) -> Callable[..., Any] | None:
        return hook if hook is None or self._surroundings is None else within(self._surroundings, hook)


async def _refuse_call(request: object) -> None:
    raise ConfigError(
        "the backend is an application, which answers HTTP requests and WebSockets and no calls of handles; "
        "ask it over HTTP at its endpoint's route, or forward a route to it"
    )


def _served(cls: type, exposed_methods: Collection[str] | None) -> dict[str, Callable[..., Any]]:
    """Return the functions of *cls* that may be called, by name, `__call__` first."""
    if exposed_methods is None:
        bases = [base for base in cls.__mro__ if base is not object]
        names = dict.fromkeys(name for base in bases for name in vars(base))
        hooks = {*_HOOKS, "close"} if _closes(cls) else _HOOKS
        public = [name for name in names if not name.startswith("_") and name not in hooks]
        found = {name: _static_function(cls, name) for name in ["__call__", *public]}
        return {name: func for name, func in found.items() if func is not None}
    served = {"__call__": _static_function(cls, "__call__")}
    for name in exposed_methods:
        served[name] = None if name.startswith("_") else _static_function(cls, name)
        if served[name] is None:
            raise ConfigError(f"exposed_methods: {name!r} is no public method of {cls.__qualname__}")
    return {name: func for name, func in served.items() if func is not None}


def _static_function(cls: type, name: str) -> Callable[..., Any] | None:
    """Return the function that *name* is bound to in *cls*; None if it is not a method, or one written in C."""
    found = _attribute(cls, name)
    while isinstance(found, staticmethod | classmethod):
        found = found.__func__
    return found if _is_function(found) else None


def _is_function(value: Any) -> bool:
    """Return whether *value* is a Python function, or wraps one as `functools.cache` does and binds like it.

    A `functools.partial` is an attribute that can be called: whether it binds depends on Python's version.
    """
    if isinstance(value, functools.partial) or inspect.isclass(value) or not hasattr(type(value), "__get__"):
        return False
    return callable(value) and hasattr(inspect.unwrap(value), "__code__")


def _attribute(cls: type, name: str) -> Any:
    # Not `inspect.getattr_static`: that finds the `__call__` of a metaclass.
    return next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)


def _closes(cls: type) -> bool:
    """Return whether *cls* has a hook `close`; a method of that name that needs arguments is one of the user's API."""
    if _static_function(cls, "close") is None:
        return False
    try:
        inspect.signature(_attribute(cls, "close").__get__(object(), cls)).bind()
    except (TypeError, ValueError):
        return False
    return True


def _hook(owner: object, name: str) -> Callable[..., Any] | None:
    cls = owner if inspect.isclass(owner) else type(owner)
    return getattr(owner, name) if _static_function(cls, name) is not None else None
