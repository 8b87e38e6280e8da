"""A backend declared where its code is: `@serve.backend(...)` over a function or class, or around an application.

Rule 1: a declaration starts nothing. It is kept on the declared object only; subclasses do not inherit it.
Rule 2: a wrong declaration is an error in the line of the declaration, not in the deployment.
Rule 3: the fingerprint of a declaration changes if a replica would start from other code or arguments than before.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar, Unpack, overload

from serve_bridge.config.actor_options import check_ray_actor_options
from serve_bridge.config.backend_config import BACKEND_DEFAULTS, BackendConfig, BackendOptions, check_room
from serve_bridge.config.checks import optional, seconds
from serve_bridge.config.names import check_name
from serve_bridge.config.signatures import shows_options
from serve_bridge.deployment.sources import Sources
from serve_bridge.errors import ConfigError
from serve_bridge.http.methods import ANY_METHOD, Methods, checked_methods
from serve_bridge.http.path_params import check_route
from serve_bridge.printable import nearest, shown
from serve_bridge.specs import BackendSpec, Origin, packed_config
from serve_bridge.user_code.application import Application
from serve_bridge.user_code.fingerprint import closed_over, digest
from serve_bridge.user_code.frozen_code import freeze_code
from serve_bridge.user_code.import_path import import_path_of
from serve_bridge.user_code.search_path import search_path_of
from serve_bridge.user_code.served_methods import is_async_code
from serve_bridge.user_code.surroundings import SurroundingsSpec
from serve_bridge.user_code.validation import check_backend_code, check_config
from serve_bridge.wire.opaque import Opaque

__all__ = [
    "Declaration",
    "backend",
]

_MARK: Final = "__serve_bridge_backend__"
_OURSELVES: Final = __name__.partition(".")[0]
DEFAULT_METHODS: Final = ("GET",)
_check_timeout: Final = optional(seconds())

_Code = TypeVar("_Code", bound="Callable[..., Any] | Application")


@dataclass(frozen=True, kw_only=True, eq=False)
class Declaration:
    """The checked arguments of `@serve.backend`.

    Attributes:
        name: The backend's name.
        code: The function, class or application.
        endpoint: Name of its endpoint.
        route: Route of the endpoint over HTTP; None: not declared here.
        methods: HTTP methods of the endpoint.
        timeout_s: Time limit of a request to the endpoint in seconds; None: not declared here.
        init_args, init_kwargs: Arguments of the class's constructor.
        config: Options of the backend. Operators decide the options without a declaration.
        ray_actor_options: Resources and environment of its actors.
        surroundings: The surroundings of its code.
        version: Replaces the content of the code in the fingerprint; None: the content counts.
    """

    name: str
    code: Callable[..., Any] | Application = field(repr=False)
    endpoint: str
    route: str | None
    methods: tuple[str, ...]
    timeout_s: float | None
    init_args: tuple[Any, ...] = field(repr=False)
    init_kwargs: Mapping[str, Any] = field(repr=False)
    config: BackendConfig
    ray_actor_options: Mapping[str, Any]
    surroundings: SurroundingsSpec | None
    version: str | None

    @property
    def describes_endpoint(self) -> bool:
        """Whether it declares the route, HTTP methods or time limit of its endpoint."""
        own_methods = self.methods not in (DEFAULT_METHODS, ANY_METHOD)
        return self.route is not None or own_methods or self.timeout_s is not None

    @property
    def place(self) -> str:
        """The place of the declaration, for messages."""
        return f"{self.code.__module__}:{self.code.__qualname__}"

    def fingerprint(self, sources: Sources | None = None) -> str:
        """Return the digest of the code and the arguments of a replica, without the options.

        It covers the content of every module below the top package of the code, of the application and of the
        surroundings, in any directory. A `version` replaces the content.

        Raises:
            OSError: A file cannot be read.
        """
        given = (self.place, self.init_args, self.init_kwargs, self.ray_actor_options, self.version)
        given = (*given, *self._surrounded())
        if self.version is not None:
            return digest(given)
        sources = Sources() if sources is None else sources
        paths = [self.code.path if isinstance(self.code, Application) else None]
        paths.append(self.surroundings.path if self.surroundings is not None else None)
        tops = sorted({re.split("[.:]", path)[0] for path in paths if path is not None} - {_OURSELVES})
        return digest(
            given, closed_over(self.code), sources.of_code(self.code), [sources.of_module(top) for top in tops]
        )

    def frozen(self, owner: str = "", time: float = 0.0, sources: Sources | None = None) -> BackendSpec:
        """Return the backend for the controller, as part of the deployment of *owner* at *time*.

        Importable code travels as its import path, and other code by value.

        Raises:
            SerializationError: A part of it cannot be pickled; the message names the part.
            OSError: A file of the code cannot be read.
        """
        code = freeze_code(
            import_path_of(self.code) or self.code,
            self.init_args,
            self.init_kwargs,
            surroundings=self.surroundings,
        )
        return BackendSpec(
            name=self.name,
            code=code,
            is_async=is_async_code(self.code, self.config.exposed_methods),
            config=packed_config(self.config),
            actor_options=Opaque(dict(self.ray_actor_options)),
            origin=Origin(
                owner=owner,
                time=time,
                version=self.version or "",
                fingerprint=self.fingerprint(sources),
                declared=tuple(sorted(self.config.given)),
                search_path=self._search_path(),
            ),
            is_application=isinstance(self.code, Application),
        )

    def __reduce__(self) -> Any:
        return type(None), ()  # the mark of code by value holds a second copy of the code, so it is not pickled

    def _search_path(self) -> tuple[str, ...]:
        around = self.surroundings.search_path if self.surroundings is not None else ()
        app = self.code.search_path if isinstance(self.code, Application) else ()
        return tuple(dict.fromkeys([*search_path_of(self.code.__module__), *app, *around]))

    def _surrounded(self) -> tuple[Any, ...]:
        return () if self.surroundings is None else (self.surroundings.path, self.surroundings.arguments)


class _Decorator(Protocol):
    def __call__(self, code: _Code, /) -> _Code: ...


@overload
def backend(name: _Code, /) -> _Code: ...


@overload
def backend(
    name: str | None = None,
    *,
    endpoint: str | None = None,
    route: str | None = None,
    methods: Methods | None = None,
    timeout_s: float | None = None,
    init_args: Sequence[Any] = (),
    init_kwargs: Mapping[str, Any] | None = None,
    ray_actor_options: dict[str, Any] | None = None,
    surroundings: str | SurroundingsSpec | None = None,
    version: object = None,
    **config: Unpack[BackendOptions],
) -> _Decorator: ...


@shows_options(BackendOptions, BACKEND_DEFAULTS)
def backend(
    name: Any = None,
    *,
    endpoint: str | None = None,
    route: str | None = None,
    methods: Methods | None = None,
    timeout_s: float | None = None,
    init_args: Sequence[Any] = (),
    init_kwargs: Mapping[str, Any] | None = None,
    ray_actor_options: dict[str, Any] | None = None,
    surroundings: str | SurroundingsSpec | None = None,
    version: object = None,
    **config: Unpack[BackendOptions],
) -> Any:
    """Declare a function, class or application as a backend, which `deploy` starts. The object itself stays unchanged.

    ::

        @serve.backend("digits", route="/digits", methods=["POST"], num_replicas=2)
        class Digits: ...

        shop = serve.backend("shop", route="/shop")(serve.wsgi_app("shop.wsgi:application"))

    Args:
        name: The backend's name; None: the name of the function or class.
        endpoint: Name of its endpoint; None: the backend's own. Several backends may share one. The first deployed
            backend gets its traffic, until `set_traffic`.
        route: Route of the endpoint over HTTP, a Starlette path such as "/api/{user_id:int}"; None: Python callers
            only, or declared by another backend of the endpoint. For an application it is a prefix.
        methods: HTTP methods of the endpoint; None: GET, or all methods of an application.
        timeout_s: Time limit of a request in seconds, for every caller; None: only callers have a limit.
        init_args: Arguments of the class's constructor.
        init_kwargs: Its keyword arguments.
        ray_actor_options: Resources and environment of its actors, as Ray's `actor.options(...)` takes them.
        surroundings: Import path "package.module:factory" of the `Surroundings` of its code, or a `SurroundingsSpec`,
            which can hold arguments for the factory.
        version: Any object with a text of its own. A deployment then replaces the replicas if this text changes, and
            ignores the code. None: the content of every module below the top package counts.
        config: Options of `BackendConfig`.

    Returns:
        A decorator, which returns the decorated object.

    Raises:
        TypeError: An option is unknown, or the decorated object cannot be a backend.
        ConfigError: An option has a bad value. It is a ValueError.
    """
    if name is not None and not isinstance(name, str) and callable(name):  # `@serve.backend` without parentheses
        return backend()(name)
    _check_options(config)
    options = BackendConfig(**config)
    check_room(options.max_surge, options.max_unavailable)
    if route is not None:
        check_route(route)
    given: dict[str, Any] = {
        "route": route,
        "methods": DEFAULT_METHODS if methods is None else checked_methods(methods),
        "timeout_s": _check_timeout("timeout_s", timeout_s),
        "init_args": _check_arguments(init_args),
        "init_kwargs": _check_keywords(init_kwargs),
        "config": options,
        "ray_actor_options": check_ray_actor_options(ray_actor_options),
        "surroundings": SurroundingsSpec.of(surroundings),
        "version": None if version is None else str(version),
    }
    if name is not None:
        check_name("backend", name)
    if endpoint is not None:
        check_name("endpoint", endpoint)

    def declare(code: _Code) -> _Code:
        check_backend_code(code, given["init_args"], given["init_kwargs"])
        check_config(code, options)
        if isinstance(code, str):
            raise TypeError(f"@serve.backend decorates a function or a class, got {shown(code)}")
        if declaration_of(code) is not None:
            raise ConfigError(f"{code.__module__}:{code.__qualname__} is declared twice; one object is one backend")
        kind = _kind_of_application(code, name, route, methods) if isinstance(code, Application) else {}
        if name is None and code.__name__ == "<lambda>":
            raise ConfigError("a lambda has no name: serve.backend('name')(...)")
        own = check_name("backend", code.__name__ if name is None else name)
        declaration = Declaration(name=own, code=code, endpoint=endpoint or own, **{**given, **kind})
        setattr(code, _MARK, declaration)
        return code

    return declare


def _kind_of_application(code: Application, name: object, route: str | None, methods: object) -> dict[str, Any]:
    """Return the attributes of a declaration in which an application differs from functions and classes."""
    if name is None:
        raise ConfigError(f"{code!r} has no name of its own: give it one, serve.backend('name', ...)")
    if methods is not None:
        raise ConfigError("methods: an application has methods of its own; leave them out")
    if route is not None:
        check_route(route, mount=True)
    return {"methods": ANY_METHOD}


def _check_arguments(value: object) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"init_args must be a list or tuple, got {shown(value)}")
    return tuple(value)


def _check_keywords(value: object) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise TypeError(f"init_kwargs must be a dict with str keys, got {shown(value)}")
    return dict(value)


def _check_options(config: Mapping[str, Any]) -> None:
    for option in config:
        if option == "config":
            raise TypeError("backend() takes no config, it takes the options themselves, such as num_replicas=2")
        if option not in BACKEND_DEFAULTS:
            near = nearest(option, inspect.signature(backend).parameters)
            raise TypeError(f"backend() has no option {shown(option)}{near}")


def declaration_of(what: object) -> Declaration | None:
    # Not `getattr`, which would find the declaration of a base class, or an invention of `__getattr__`.
    may_be = inspect.isfunction(what) or inspect.isclass(what) or isinstance(what, Application)
    found = vars(what).get(_MARK) if may_be else None
    return found if isinstance(found, Declaration) else None


def called_declaration(backend: object) -> Declaration:
    """Return the declaration of *backend*, for a handle.

    Raises:
        TypeError: *backend* is not declared.
        ConfigError: *backend* is an application.
    """
    declaration = declaration_of(backend)
    if declaration is None:
        raise TypeError(
            f"{shown(backend)} is not declared: put @serve.backend(...) over its definition, or call an endpoint by "
            "its name, serve.get_handle(name)"
        )
    if isinstance(declaration.code, Application):
        raise ConfigError(f"backend {declaration.name!r} is an application, which is called over HTTP only")
    return declaration
