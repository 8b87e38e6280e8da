"""The response model of a FastAPI stub, which filters the JSON of a backend.

FastAPI applies the model to the return value of a path operation, unless the value is a response. So the stub returns
the parsed JSON of a successful answer, and sets status and headers on FastAPI's response.

Rule 1: other media types, errors, and answers of routes without a model pass unchanged.
Rule 2: JSON to which a model cannot be applied is an error and does not pass, because the model may hide secret fields.
"""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Scope

from serve_bridge.adapters.asgi.answers import http_exception
from serve_bridge.adapters.asgi.requester import ClientLeft, Requester
from serve_bridge.adapters.bridge.outcome import Outcome, refused
from serve_bridge.errors import ConfigError, ReplicaDied
from serve_bridge.http.answers import AnswerBroken
from serve_bridge.http.headers import HeaderList

_OF_THE_BODY: Final = frozenset({b"content-length", b"content-type", b"content-md5", b"content-digest", b"digest"})
"""Headers that describe the bytes of a body. The model changes the bytes, so these headers are dropped."""
_OF_PARTS: Final = frozenset({b"accept-encoding", b"range", b"if-range"})
"""Request headers that ask for a compressed body, or for a part of it."""


def has_model(scope: Scope) -> bool:
    """Return whether the route in *scope* has a response model."""
    return getattr(scope.get("route"), "response_model", None) is not None


def asking_for_all(headers: HeaderList) -> HeaderList:
    """Return *headers* of a request without those that ask for a compressed or partial answer."""
    return [pair for pair in headers if pair[0] not in _OF_PARTS]


def applies_to(outcome: Outcome) -> bool:
    """Return whether a response model applies to *outcome*: whether it is a successful JSON answer."""
    return 200 <= outcome.status < 300 and _is_json(_header(outcome.headers, b"content-type"))


async def content_of(outcome: Outcome, requester: Requester) -> Any:
    """Return the parsed JSON of *outcome*.

    Raises:
        ResponseValidationError: The body is not JSON.
        ConfigError: The answer has a Content-Encoding.
        HTTPException: The replica died before the end of the answer, or the client left.
    """
    encoding = _header(outcome.headers, b"content-encoding")
    if encoding not in (b"", b"identity"):
        if not isinstance(outcome.body, bytes):
            await outcome.body.aclose()
        raise ConfigError(
            f"the answer has the Content-Encoding {encoding.decode('latin-1')!r}, so the response model of its route "
            "cannot be applied; let the backend answer without one, or the route have response_model=None"
        )
    body = await _whole(outcome.body, requester)
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        from fastapi.exceptions import ResponseValidationError  # late: only FastAPI has response models

        message = f"the backend's answer is not JSON: {error}"
        flaw = {"type": "json_invalid", "loc": ("response",), "msg": message, "input": {}}
        raise ResponseValidationError([flaw], body=body) from None


def describe(outcome: Outcome, response: Response) -> None:
    """Copy status and headers of *outcome* to *response*, from which FastAPI takes them."""
    response.status_code = outcome.status
    response.raw_headers.extend(_kept(outcome.headers))


def of_dependencies(response: Response) -> HeaderList:
    """Return the headers that dependencies have set on *response*, which is FastAPI's."""
    return _kept(response.raw_headers)


def without_length(outcome: Outcome) -> Outcome:
    """Return *outcome*, an answer to HEAD, without its Content-Length: the model would change the length."""
    headers = [pair for pair in outcome.headers if pair[0] != b"content-length"]
    return Outcome(outcome.status, headers, outcome.body)


async def _whole(body: Any, requester: Requester) -> bytes:
    if isinstance(body, bytes):
        return body
    try:
        with requester:
            async with aclosing(body) as chunks:
                return b"".join([chunk async for chunk in chunks])
    except ClientLeft as left:
        raise http_exception(refused(left)) from left
    except AnswerBroken as broken:
        raise http_exception(refused(ReplicaDied("the replica died while it answered", "unknown"))) from broken


def _kept(headers: HeaderList) -> HeaderList:
    return [pair for pair in headers if pair[0] not in _OF_THE_BODY]


def _header(headers: HeaderList, name: bytes) -> bytes:
    return next((value for each, value in headers if each == name), b"").strip().lower()


def _is_json(content_type: bytes) -> bool:
    media_type = content_type.partition(b";")[0].strip()
    return media_type == b"application/json" or media_type.endswith(b"+json")
