"""The bridge that `init_app` makes for an app, with the settings of the app."""

from __future__ import annotations

from flask import Flask

from serve_bridge.adapters.bridge.bridge import Bridge
from serve_bridge.adapters.flask.current_bridge import EXTENSION
from serve_bridge.adapters.flask.settings import Settings


class FlaskBridge(Bridge):
    """The bridge of one app.

    Attributes:
        settings: The settings of the app.
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


def bridge_of(app: Flask) -> FlaskBridge | None:
    """Return the bridge that `init_app` made for *app*; None if there is none."""
    bridge = app.extensions.get(EXTENSION)
    return bridge if isinstance(bridge, FlaskBridge) else None


def project_of(app: Flask) -> str:
    """Return the owner of what *app* deploys: its import name, or the name of its file if that is `__main__`."""
    return app.name
