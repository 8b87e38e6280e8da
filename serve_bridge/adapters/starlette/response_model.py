"""The response model of a FastAPI stub, which decides what of a backend's JSON leaves.

FastAPI applies the model to what a path operation returns, unless that is a response already. So the JSON of a
successful answer goes back to FastAPI as a value, with the status and the headers of the answer beside it.

Rule 1: what no model applies to is passed on as it came: other media types, errors, routes without a model.
Rule 2: what a model cannot be applied to is an error, and never passed on: the model may keep something secret.
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
"""Headers that describe the bytes of a body, which are others once the model was applied."""
_OF_PARTS: Final = frozenset({b"accept-encoding", b"range", b"if-range"})
"""Headers with which a client asks for an encoded body, or for a part of it."""


def has_model(scope: Scope) -> bool:
    """Return whether the route of the request of *scope* has a response model."""
    return getattr(scope.get("route"), "response_model", None) is not None


def asking_for_all(headers: HeaderList) -> HeaderList:
    """Return the *headers* of a request so that its answer is whole and not encoded, as a model needs it."""
    return [pair for pair in headers if pair[0] not in _OF_PARTS]


def applies_to(outcome: Outcome) -> bool:
    """Return whether a response model applies to *outcome*: it is a successful answer of JSON."""
    return 200 <= outcome.status < 300 and _is_json(_header(outcome.headers, b"content-type"))


async def content_of(outcome: Outcome, requester: Requester) -> Any:
    """Return the JSON of *outcome*, parsed.

    Raises:
        ResponseValidationError: It is not JSON.
        ConfigError: It is encoded.
        HTTPException: The replica has not finished it, or the client has left.
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
    """Give *response*, from which FastAPI takes status and headers of its answer, those of *outcome*."""
    response.status_code = outcome.status
    response.raw_headers.extend(_kept(outcome.headers))


def without_length(outcome: Outcome) -> Outcome:
    """Return *outcome*, the answer to HEAD, without the length of a body to which no model was applied."""
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
