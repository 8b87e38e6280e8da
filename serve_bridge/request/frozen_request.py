"""A Starlette request in the form in which it is pickled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from starlette.requests import Request

from serve_bridge.context import valid_request_id
from serve_bridge.http.body_length import BODY_LENGTH
from serve_bridge.http.headers import REQUEST_ID
from serve_bridge.request.body_channel import BodyChannel

_PLAIN_TYPES: Final = frozenset((str, bytes, int, float, bool, type(None)))
_DEEPEST: Final = 20  # levels of lists and dicts in a request's state; what is deeper, or a cycle, stays behind
_TRAVELLING: Final = (
    *("http_version", "method", "scheme", "path", "raw_path", "query_string"),
    *("root_path", "app_root_path", "client", "server"),
)
"""Keys of a scope that mean the same in another process; application, router and session do not."""


@dataclass(frozen=True, slots=True)
class FrozenRequest:
    """A Starlette request on its way to another process: what its scope says, and its whole body.

    Attributes:
        scope: The part of the ASGI scope that makes sense elsewhere; of its state only text, bytes, numbers,
            bool, None, and lists, tuples and dicts of these.
        body: The whole body.
    """

    scope: dict[str, Any]
    body: bytes

    @classmethod
    def of(cls, request: Request[Any], body: bytes) -> FrozenRequest:
        """Return *request* with *body*, which is all of its body, ready to be pickled."""
        scope = {key: request.scope[key] for key in _TRAVELLING if key in request.scope}
        scope[BODY_LENGTH] = len(body)
        scope["headers"] = [(bytes(name), bytes(value)) for name, value in request.scope["headers"]]
        scope["path_params"] = dict(request.scope.get("path_params") or {})
        state = request.scope.get("state") or {}
        scope["state"] = {name: value for name, value in state.items() if _is_plain(value)}
        return cls(scope, body)

    @property
    def request_id(self) -> str | None:
        """The id that the request came with; None if it has no valid one."""
        given = next((value for name, value in self.scope["headers"] if name == REQUEST_ID), b"")
        return valid_request_id(given.decode("latin-1"))

    def thaw(self, request_id: str) -> Request:
        """Return a request that reads like the original; each call returns another, with its own state.

        Its header X-Request-Id is *request_id*, the id of the call that it came with.
        """
        headers = [pair for pair in self.scope["headers"] if pair[0] != REQUEST_ID]
        scope = {
            **self.scope,
            "headers": [*headers, (REQUEST_ID, request_id.encode())],
            "type": "http",
            "app": None,  # its presence makes Starlette answer a malformed form with 400
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
