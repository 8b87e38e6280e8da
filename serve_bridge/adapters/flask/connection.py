"""An app's bridge: kept with the app, made by `init_app`, found by views through `current_app`."""

from __future__ import annotations

from typing import Final, cast

from flask import Flask, current_app

from serve_bridge.adapters.bridge import Bridge
from serve_bridge.adapters.flask.settings import Settings

EXTENSION: Final = "serve_bridge"


class FlaskBridge(Bridge):
    """The bridge of one app.

    Attributes:
        settings: What the app's configuration said.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            settings.address,
            name=settings.name,
            runtime=settings.runtime,
            timeout_s=settings.timeout_s,
            declared=lambda: settings.backends,
        )
        self.settings = settings


def current_bridge() -> Bridge:
    """Return the bridge of the current app.

    Raises:
        RuntimeError: It has none.
    """
    bridge = current_app.extensions.get(EXTENSION)
    if bridge is None:
        raise RuntimeError("this app has no serve_bridge; call ServeBridge().init_app(app) first")
    return cast(Bridge, bridge)


def bridge_of(app: Flask) -> FlaskBridge | None:
    """Return the bridge that `init_app` made for *app*."""
    bridge = app.extensions.get(EXTENSION)
    return bridge if isinstance(bridge, FlaskBridge) else None
