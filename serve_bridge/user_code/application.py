"""An ASGI or WSGI application as a backend, made by `asgi_app` or `wsgi_app`.

Rule 1: an application travels by its import path, if it has one. Few applications can be pickled, and an import also
        runs the set-up of the web site around the application.
Rule 2: the caller does not import or call the application. The replica does.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any, Literal

from serve_bridge.errors import ConfigError
from serve_bridge.printable import shown
from serve_bridge.user_code.import_path import check_import_path, path_of_object, resolve
from serve_bridge.user_code.search_path import search_path_of

__all__ = ["Application", "asgi_app", "wsgi_app"]
Kind = Literal["asgi", "wsgi"]


class Application:
    """An application, or its import path.

    Attributes:
        kind: The interface of the application.
        path: The import path of the application; None: the application is pickled.
    """

    def __init__(self, kind: Kind, target: Any, module: str) -> None:
        """Take *target*, an application or its import path; *module* is the module which wraps it."""
        self.kind: Kind = kind
        self._target = target
        self.path: str | None = target if isinstance(target, str) else path_of_object(target)
        self.__module__ = module  # as for a function or a class
        self.__name__: str = f"{kind}_app({self.path or type(target).__qualname__})"
        self.__qualname__: str = self.__name__

    @property
    def is_async(self) -> bool:
        """Whether the application runs on the replica's loop."""
        return self.kind == "asgi"

    @property
    def search_path(self) -> tuple[str, ...]:
        """The directories in which a replica finds the module of the application."""
        return () if self.path is None else search_path_of(self.path.partition(":")[0])

    def load(self) -> Any:
        """Return the application itself.

        Raises:
            ImportError: The module is missing, or its import fails.
            AttributeError: The module has no such attribute.
            TypeError: The attribute cannot be called.
        """
        if not isinstance(self._target, str):
            return self._target
        found = resolve(self._target)
        if inspect.isclass(found) or not callable(found):
            raise TypeError(f"{self._target} must be an {self.kind.upper()} application, got {shown(found)}")
        return found

    def __reduce__(self) -> Any:
        return Application, (self.kind, self.path or self._target, self.__module__)

    def __repr__(self) -> str:
        return f"<{self.__qualname__}>"


def asgi_app(app: Any) -> Application:
    """Return an ASGI application as a backend: FastAPI, Starlette, Django, or any other.

    Its lifespan runs in each replica: `startup` before the replica gets requests, `shutdown` after its drain.

    Args:
        app: The application, or its import path "package.module:attr". Replicas import an application with a name in a
            module. Any other application must be picklable.

    Raises:
        TypeError: *app* is not an application.
        ConfigError: An import path is malformed.
    """
    return _application("asgi", app)


def wsgi_app(app: Any) -> Application:
    """Return a WSGI application as a backend: Flask, Django, or any other; see `asgi_app`.

    Each request runs on one of the replica's threads (`threads`), from its first line to the last piece of its answer.

    Raises:
        TypeError: *app* is not an application.
        ConfigError: An import path is malformed.
    """
    return _application("wsgi", app)


def _application(kind: Kind, app: Any) -> Application:
    if isinstance(app, str):
        check_import_path(app)
    elif isinstance(app, Application):
        raise TypeError(f"{kind}_app() takes the application itself, and {app!r} is wrapped already")
    elif inspect.isclass(app) or not callable(app):
        raise TypeError(
            f"{kind}_app() takes an application, or its import path 'package.module:attr', got {shown(app)}{_hint(app)}"
        )
    elif kind == "wsgi" and _is_async(app):
        raise ConfigError(f"wsgi_app() got {shown(app)}, which is asynchronous; asgi_app() takes it")
    elif kind == "asgi" and _takes(app, 2):
        raise ConfigError(f"asgi_app() got {shown(app)}, which takes two arguments as in WSGI; wsgi_app() takes it")
    return Application(kind, app, sys._getframe(2).f_globals.get("__name__", "__main__"))


def _hint(app: Any) -> str:
    if inspect.isclass(app):
        return "; make an instance of it"
    return "; pass the function, without calling it" if inspect.iscoroutine(app) else ""


def wrapper_of(value: object) -> str | None:
    """Return the name of the function which wraps *value*, if *value* looks like an application; otherwise None."""
    if inspect.isclass(value) or not callable(value):
        return None
    if _is_async(value):
        return "asgi_app" if _takes(value, 3) else None
    return "wsgi_app" if _takes(value, 2) else None


def _is_async(app: Any) -> bool:
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(getattr(app, "__call__", None))  # noqa: B004


def _takes(app: Any, count: int) -> bool:
    """Return whether *app* takes exactly *count* arguments; False if it has no signature."""
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):
        return False
    return len(parameters) == count and all(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
