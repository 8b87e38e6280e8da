"""An app's bridge: kept with the app, made by `init_app`, found by views through `current_app`."""

from __future__ import annotations

from typing import Final, cast

from flask import Flask, current_app, has_request_context, request

from serve_bridge.adapters.bridge.bridge import Bridge
from serve_bridge.adapters.flask.settings import Settings
from serve_bridge.context import add_request_id_source, new_request_id, valid_request_id

EXTENSION: Final = "serve_bridge"


_KEY: Final = "serve_bridge.running_request"
"""Key in `request.environ` of the id of a request, once something has asked for it."""


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


def running_request() -> str | None:
    """Return the id of the current request of an app with a bridge: its valid X-Request-Id, otherwise a new one."""
    if not has_request_context() or EXTENSION not in current_app.extensions:
        return None
    environ = request.environ
    found: str | None = environ.get(_KEY)
    if found is None:
        found = environ[_KEY] = valid_request_id(environ.get("HTTP_X_REQUEST_ID")) or new_request_id()
    return found


# Flask knows the current request better than a context variable of ours, which a streamed response would outlive.
add_request_id_source(running_request)


def bridge_of(app: Flask) -> FlaskBridge | None:
    """Return the bridge that `init_app` made for *app*."""
    bridge = app.extensions.get(EXTENSION)
    return bridge if isinstance(bridge, FlaskBridge) else None


def project_of(app: Flask) -> str:
    """Return the name under which *app* deploys: its import name, or its file's name if that is `__main__`."""
    return app.name
