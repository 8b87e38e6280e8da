"""The scope of an ASGI request or WebSocket, and what an adapter reads from it.

Rule 1: a key that ASGI calls optional may be missing, and stays missing.
Rule 2: a key that every server sets gets a default here, because tests and tools make scopes without it.
"""

from __future__ import annotations

from typing import Any, Final

from starlette.types import Scope

from serve_bridge.http.headers import lowered


def readable(scope: Scope) -> Scope:
    """Return *scope* with an HTTP version, a query, and a list of headers whose names are in lower case."""
    headers = scope.get("headers")
    if type(headers) is list and lowered(headers) is headers and "http_version" in scope and "query_string" in scope:
        return scope
    changed: dict[str, Any] = {"headers": lowered([(bytes(name), bytes(value)) for name, value in headers or ()])}
    return {"http_version": "1.1", "query_string": b"", **scope, **changed}


REQUEST_ID: Final = "serve_bridge.request_id"
"""Key of a scope: the id of the request, once code has asked for it."""


def request_id_of(scope: Scope) -> str | None:
    """Return the value of the header X-Request-Id in *scope*; None if the header is missing."""
    headers = scope.get("headers") or ()
    return next((bytes(value).decode("latin-1") for name, value in headers if name.lower() == b"x-request-id"), None)


def path_below(scope: Scope) -> str:
    """Return the path below the mount. `root_path` is the path of the mount, and `path` begins with it."""
    path: str = scope["path"]
    root_path: str = scope.get("root_path") or ""
    if root_path and path.startswith(root_path):
        below = path[len(root_path) :]
        path = below if below.startswith("/") else path if below else "/"
    return path[:-1] if path[-1:] == "/" and len(path) > 1 and _is_added_slash(scope) else path


def _is_added_slash(scope: Scope) -> bool:
    """Return whether the final slash of the path was not sent by the client: Litestar adds one below its mounts."""
    sent: bytes = scope.get("raw_path") or b"/"
    return not sent.endswith(b"/") and not sent.upper().endswith(b"%2F")
