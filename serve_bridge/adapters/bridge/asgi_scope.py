"""The scope of an ASGI request or WebSocket, as the engine reads it.

Rule 1: a part that ASGI calls optional may be absent, and stays absent.
Rule 2: a part that every server has gets its default here, because scopes that tests and tools make lack it.
"""

from __future__ import annotations

from typing import Any

from starlette.types import Scope

from serve_bridge.http.headers import lowered


def readable(scope: Scope) -> Scope:
    """Return *scope* with the HTTP version, a query, and a list of headers with names in lower case."""
    headers = scope.get("headers")
    if type(headers) is list and lowered(headers) is headers and "http_version" in scope and "query_string" in scope:
        return scope
    changed: dict[str, Any] = {"headers": lowered([(bytes(name), bytes(value)) for name, value in headers or ()])}
    return {"http_version": "1.1", "query_string": b"", **scope, **changed}
