"""The code of one replica: loaded, constructed and bound.

Rule 1: the class is inspected once, at start. It decides which methods callers may name and what each one receives.
Rule 2: a name from the wire is a key of `LoadedCode.methods`, never an argument of `getattr`.
"""

from __future__ import annotations

import gc
import inspect
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from serve_bridge.errors import ConfigError
from serve_bridge.user_code.application import Application
from serve_bridge.user_code.frozen_code import FrozenCode
from serve_bridge.user_code.import_path import resolve
from serve_bridge.user_code.method import Method
from serve_bridge.user_code.search_path import extend_search_path
from serve_bridge.user_code.served_methods import has_close_hook, hook_of, is_async_code, served_functions
from serve_bridge.user_code.surrounded_calls import within
from serve_bridge.user_code.surroundings import Surroundings, open_surroundings
from serve_bridge.user_code.validation import check_backend_code, described


class LoadedCode:
    """The code of one replica.

    Attributes:
        code: The function, class or application. An import path of a function or class is resolved.
        is_async: Whether the code is asynchronous, as `is_async_code` decides.
        methods: The methods open to calls, by name; empty until `construct` has run.
        reconfigure: The bound method `reconfigure`, sync or async; None if the class has none.
        check_health: The bound method `check_health`; None if the class has none.
        close: The bound method `close`; None if the class has none, or if it needs arguments.
        application: The loaded application, once `construct` has run; None for a function or class.

    With surroundings, the constructor and all of these methods run within them.
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
        self.is_async: bool = is_async_code(code, exposed_methods)
        self.methods: Mapping[str, Method] = {}
        self.reconfigure: Callable[[Any], Any] | None = None
        self.check_health: Callable[[], Any] | None = None
        self.close: Callable[[], Any] | None = None
        self.application: Any = None
        self._init_args = tuple(init_args)
        self._init_kwargs = dict(init_kwargs or {})
        self._served = tuple(served_functions(code, exposed_methods)) if inspect.isclass(code) else ()

    @property
    def streaming(self) -> tuple[str, ...]:
        """The methods able to read the body of a request while it arrives. The others need the whole body."""
        if isinstance(self.code, Application):
            return ("__call__",) if self.is_async else ()
        return tuple(
            name
            for name, method in self.methods.items()
            if method.is_async and method.takes == "request" and not method.batched
        )

    @classmethod
    def load(cls, blob: bytes, *, exposed_methods: Collection[str] | None = None) -> LoadedCode:
        """Return the code in *blob*, from `freeze_code`. Open its surroundings first, if it has any.

        Code named by an import path is checked here, because the caller could not import it.

        Raises:
            ImportError: The module of an import path is missing, or its import fails.
            AttributeError: The module has no such attribute.
            TypeError: The attribute cannot be a backend.
            ConfigError: `exposed_methods` has a name which is not a method.
            BaseException: The surroundings raised it.
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
        """Make the instance in this thread by the user's constructor, and bind its methods.

        Raises:
            TypeError: `__init__` returned a value, or `__new__` made an instance of another class.
            BaseException: The constructor raised it.
        """
        if self._surroundings is None:
            self._construct()
        else:
            with self._surroundings.around():
                self._construct()

    async def aconstruct(self) -> None:
        """Do as `construct` does, on the running loop, for asynchronous code."""
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
            raise TypeError(f"{self.code.__qualname__}() made {described(instance)}")
        self.methods = types.MappingProxyType(
            {name: self._method(name, getattr(instance, name)) for name in self._served}
        )
        self.reconfigure = self._within(hook_of(instance, "reconfigure"))
        self.check_health = self._within(hook_of(instance, "check_health"))
        self.close = self._within(hook_of(instance, "close") if has_close_hook(self.code) else None)
        self._init_args, self._init_kwargs = (), {}  # the instance keeps those that it needs

    def drop(self) -> None:
        """Drop the user's instance, so its `__del__` runs in this thread. The collector finds it in a cycle, too."""
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
        "the backend is an application: it answers HTTP requests and WebSockets, but not calls of handles; "
        "ask it over HTTP at its endpoint's route, or forward a route to it"
    )
