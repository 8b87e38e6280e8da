"""The id of an HTTP request, which its client may choose."""

from __future__ import annotations

from serve_bridge.context import new_request_id, valid_request_id
from serve_bridge.http.headers import REQUEST_ID, HeaderList

__all__ = ["client_request_id", "request_id_of"]


def client_request_id(headers: HeaderList) -> str | None:
    """Return the id that the client gave its request, if it is a valid one."""
    given = next((value for name, value in headers if name == REQUEST_ID), b"")
    return valid_request_id(given.decode("latin-1"))


def request_id_of(headers: HeaderList) -> str:
    """Return the id of a request: the client's own if it is a valid one, otherwise a new one."""
    return client_request_id(headers) or new_request_id()
