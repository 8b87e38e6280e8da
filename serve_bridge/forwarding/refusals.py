"""Requests that get no answer of user code: the errors which a client caused, and the problem documents for all.

Rule 1: a failure is an `application/problem+json` with the id of the request; the cause is for the log.
"""

from __future__ import annotations

from typing import ClassVar

from serve_bridge.errors import UNAVAILABLE, BackendOverloaded, ServeBridgeError
from serve_bridge.http.answers import Answer, refusal_answer


class Refused(Exception):
    """The client is to blame: its request is not forwarded, or not to its end."""

    http_status: ClassVar[int] = 400


class BadControlHeader(Refused):
    """A control header is repeated, or holds nothing that it may."""


class BodyTooLarge(Refused):
    """The body is longer than the route allows."""

    http_status = 413

    def __init__(self, most: int) -> None:
        super().__init__(f"the body is longer than {most} bytes")


class LengthRequired(Refused):
    """The end of the body cannot be known."""

    http_status = 411

    def __init__(self) -> None:
        super().__init__("this server cannot tell where a body without a Content-Length ends")


class UploadBroken(Refused):
    """The client left before all of the body had come."""


def failed(error: ServeBridgeError | Refused, request_id: str | None, *, from_adapter: bool = False) -> Answer:
    """Return the answer for a request that got none from user code.

    With *from_adapter* a missing endpoint is a 503, as everything in `errors.UNAVAILABLE`.
    """
    is_unavailable = isinstance(error, UNAVAILABLE) and (from_adapter or error.http_status == 503)
    return refusal_answer(
        503 if is_unavailable else error.http_status,
        _detail(error),
        request_id,
        executed=getattr(error, "executed", None),
        retry=is_unavailable,
    )


def _detail(error: ServeBridgeError | Refused) -> str | None:
    # Of our own errors only these say nothing about the inside.
    if isinstance(error, Refused):
        return str(error)
    return "the server is too busy, or starting" if isinstance(error, BackendOverloaded) else None
