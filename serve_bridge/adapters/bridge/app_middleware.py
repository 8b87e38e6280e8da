"""The common part of the middlewares for ASGI and WSGI: the application behind them, a bridge, and routes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar, Unpack

from serve_bridge.adapters.bridge.app_bridge import AppBridge, BridgeOptions, bridge_of
from serve_bridge.adapters.bridge.patterns import Match

App = TypeVar("App")
"""The type of the application behind the middleware."""


class AppMiddleware(Generic[App]):
    """A middleware that forwards some requests and hands on all others.

    Args:
        app: The application behind the middleware.
        routes: The routes to forward, as for `ServeBridge`. None: the routes of *bridge*.
        bridge: The bridge of the application. None: the middleware makes a bridge from *address* and the options.
        address: See `ServeBridge`.
        options: See `BridgeOptions`.

    Attributes:
        bridge: The bridge to the instance.

    Raises:
        TypeError, ConfigError: An argument has a wrong type or value, or there are no routes.
    """

    bridge_class: ClassVar[type[AppBridge]]
    """The class of a bridge that the middleware makes."""

    def __init__(
        self,
        app: App,
        *,
        routes: Mapping[str, Any] | None = None,
        bridge: AppBridge | None = None,
        address: str | os.PathLike[str] | None = None,
        **options: Unpack[BridgeOptions],
    ) -> None:
        self._app = app
        self.bridge: AppBridge = bridge or self.bridge_class(address, routes=routes, **options)
        self._bridge = bridge_of(self.bridge)
        self._patterns = self.bridge.patterns(routes)

    def _match(self, path: str, method: str) -> Match | None:
        """Return the route that takes requests of *method* to *path*; None if there is none."""
        found = self._patterns.match(path)
        return found if found is not None and found.takes(method) else None
