"""The bridge of the current app, and the id of the current request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from flask import current_app, has_request_context, request

from serve_bridge.context import add_request_id_source, new_request_id, valid_request_id

if TYPE_CHECKING:
    from serve_bridge.adapters.bridge.bridge import Bridge

EXTENSION: Final = "serve_bridge"


_KEY: Final = "serve_bridge.running_request"
"""Key of `request.environ`: the id of the request, once code has asked for it."""


def current_bridge() -> Bridge:
    """Return the bridge of the current app.

    Raises:
        RuntimeError: The app has no bridge.
    """
    bridge = current_app.extensions.get(EXTENSION)
    if bridge is None:
        raise RuntimeError("this app has no serve_bridge; call ServeBridge().init_app(app) first")
    return cast("Bridge", bridge)


def running_request() -> str | None:
    """Return the id of the current request: its valid X-Request-Id, otherwise a new id. None outside of a request."""
    if not has_request_context() or EXTENSION not in current_app.extensions:
        return None
    environ = request.environ
    found: str | None = environ.get(_KEY)
    if found is None:
        found = environ[_KEY] = valid_request_id(environ.get("HTTP_X_REQUEST_ID")) or new_request_id()
    return found


# Flask keeps the current request also while a response is streamed, when a context variable would be reset already.
add_request_id_source(running_request)
