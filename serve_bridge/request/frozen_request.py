"""A Starlette request in its pickled form."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from starlette.requests import Request

from serve_bridge.context import valid_request_id
from serve_bridge.http.body_length import BODY_LENGTH
from serve_bridge.http.headers import REQUEST_ID, lowered
from serve_bridge.request.body_channel import BodyChannel

_PLAIN_TYPES: Final = frozenset((str, bytes, int, float, bool, type(None)))
_DEEPEST: Final = 20
"""Upper limit for nested lists and dicts in a value of a request's state. Deeper values, and cycles, are left out."""
_TRAVELLING: Final = (
    *("http_version", "method", "scheme", "path", "raw_path", "query_string"),
    *("root_path", "app_root_path", "client", "server"),
)
"""Keys of a scope with the same meaning in another process, unlike application, router and session."""


@dataclass(frozen=True, slots=True)
class FrozenRequest:
    """A Starlette request on its way to another process.

    Attributes:
        scope: The part of the ASGI scope with a meaning elsewhere. Its state keeps only text, bytes, numbers,
            bool, None, and lists, tuples and dicts of these.
        body: The whole body.
    """

    scope: dict[str, Any]
    body: bytes

    @classmethod
    def of(cls, request: Request[Any], body: bytes) -> FrozenRequest:
        """Return *request* with *body*, its whole body, in a form for pickle."""
        scope = {key: request.scope[key] for key in _TRAVELLING if key in request.scope}
        scope[BODY_LENGTH] = len(body)
        scope.setdefault("query_string", b"")
        scope["headers"] = lowered([(bytes(name), bytes(value)) for name, value in request.scope.get("headers") or ()])
        scope["path_params"] = dict(request.scope.get("path_params") or {})
        state = request.scope.get("state") or {}
        scope["state"] = {name: value for name, value in state.items() if _is_plain(value)}
        return cls(scope, body)

    @property
    def request_id(self) -> str | None:
        """The id in the request's headers; None if there is none, or if it is not valid."""
        given = next((value for name, value in self.scope["headers"] if name == REQUEST_ID), b"")
        return valid_request_id(given.decode("latin-1"))

    def thaw(self, request_id: str) -> Request:
        """Return a request which reads like the original. Each call returns a new one, with its own state.

        Its header X-Request-Id is *request_id*, the id of the call which carried it.
        """
        headers = [pair for pair in self.scope["headers"] if pair[0] != REQUEST_ID]
        scope = {
            **self.scope,
            "headers": [*headers, (REQUEST_ID, request_id.encode())],
            "type": "http",
            "app": None,  # if this key is there, Starlette answers a malformed form with 400
            "path_params": dict(self.scope["path_params"]),
            "state": dict(self.scope["state"]),
        }
        return Request(scope, BodyChannel(self.body, repeats=True))

    def __repr__(self) -> str:
        return f"<FrozenRequest {self.scope['method']} {self.scope['path']} with {len(self.body)} bytes>"


def _is_plain(value: object, depth: int = 0) -> bool:
    if type(value) in _PLAIN_TYPES:
        return True
    parts: Iterable[object]
    if type(value) is dict:
        parts = chain(value, value.values())
    elif type(value) is list or type(value) is tuple:
        parts = value
    else:
        return False
    return depth < _DEEPEST and all(_is_plain(part, depth + 1) for part in parts)
