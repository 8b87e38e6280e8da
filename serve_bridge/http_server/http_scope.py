"""The ASGI scopes of the requests on one connection."""

from __future__ import annotations

import asyncio

from starlette.types import Scope
from uvicorn.protocols.utils import get_local_addr, get_remote_addr

from serve_bridge.http.body_length import BODY_LENGTH
from serve_bridge.http.headers import TRAILERS
from serve_bridge.http_server.request_head import RequestHead

__all__ = ["ConnectionScope"]


class ConnectionScope:
    """The facts shared by the scopes of all requests on one connection.

    Attributes:
        client: Address and port of the peer; None: unknown.
    """

    __slots__ = ("_asgi_version", "_scheme", "_server", "client")

    def __init__(self, transport: asyncio.Transport, asgi_version: str, *, is_tls: bool) -> None:
        self._asgi_version = asgi_version
        self._scheme = "https" if is_tls else "http"
        self._server = get_local_addr(transport)
        self.client: tuple[str, int] | None = get_remote_addr(transport)

    def of(self, head: RequestHead) -> Scope:
        """Return the scope of the request with *head*."""
        scope: Scope = {
            "type": "http",
            "asgi": {"version": self._asgi_version, "spec_version": "2.3"},
            "http_version": head.version,
            "server": self._server,
            "client": self.client,
            "scheme": self._scheme,
            "root_path": "",
            "method": head.method,
            "path": head.path,
            "raw_path": head.target,
            "query_string": head.query,
            "headers": head.headers,
            "state": {},
            BODY_LENGTH: head.body_length,
        }
        if head.takes_trailers:
            scope["extensions"] = {TRAILERS: {}}
        return scope
