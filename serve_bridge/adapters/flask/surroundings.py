"""Surroundings of backends that need a Flask app: an application context around each call of user code.

    @serve.backend("prices", surroundings=in_app("shop:create_app()"))
    def prices(request): ...  # current_app, the session of Flask-SQLAlchemy

Rule 1: all replicas of a process share one app.
"""

from __future__ import annotations

import ast
import threading
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from typing import Final

from flask import Flask
from flask.cli import locate_app

from serve_bridge.errors import ConfigError
from serve_bridge.printable import shown
from serve_bridge.user_code.search_path import search_path_of
from serve_bridge.user_code.surroundings import SurroundingsSpec

_apps: Final[dict[str, Flask]] = {}
_lock: Final = threading.RLock()  # re-entrant, because the import of an app may import another app


class AppContext:
    """Surroundings: the application context of one app, pushed before each call and popped after it."""

    def __init__(self, app: str) -> None:
        self._path = app
        self._app: Flask | None = None

    def setup(self) -> None:
        """Load the app."""
        module, name = _parts(self._path)
        with _lock:
            if self._path not in _apps:
                _apps[self._path] = locate_app(module, name)
            self._app = _apps[self._path]

    def around(self) -> AbstractContextManager[object]:
        """Return an application context."""
        assert self._app is not None, "setup comes first"
        return self._app.app_context()

    def around_async(self) -> AbstractAsyncContextManager[object]:
        """Return an application context for the running task."""
        return _entered(self.around())


def in_app(app: str) -> SurroundingsSpec:
    """Return surroundings for a backend that needs the context of an app: `current_app`, `g`, extensions.

    Args:
        app: The app, as in FLASK_APP: "shop", "shop.web:app" or "shop:create_app('production')". The replica imports
            it, not this process.

    Raises:
        ConfigError: *app* does not name an app in this way.
    """
    module, _ = _parts(app)
    return SurroundingsSpec(f"{__name__}:AppContext", {"app": app}, search_path_of(module))


def _parts(path: object) -> tuple[str, str | None]:
    """Return the module, and the name or call in it.

    Raises:
        ConfigError: *path* does not name an app.
    """
    module, colon, name = path.partition(":") if isinstance(path, str) else ("", "", "")
    if not all(part.isidentifier() for part in module.split(".")) or (colon and not _is_name_or_call(name)):
        raise ConfigError(f"an app is named as 'shop', 'shop:app' or 'shop:create_app()', got {shown(path)}")
    return module, name or None


def _is_name_or_call(text: str) -> bool:
    try:
        found = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        return False
    return isinstance(found.func if isinstance(found, ast.Call) else found, ast.Name)


@asynccontextmanager
async def _entered(context: AbstractContextManager[object]) -> AsyncIterator[None]:
    with context:
        yield
