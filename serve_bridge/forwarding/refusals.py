"""Requests without an answer of user code: the errors of clients, and the problem documents for all errors.

Rule 1: A failure becomes an `application/problem+json` with the id of the request. The cause is in the log only.
"""

from __future__ import annotations

from typing import ClassVar

from serve_bridge.errors import UNAVAILABLE, BackendOverloaded, ServeBridgeError
from serve_bridge.http.answers import Answer, refusal_answer


class Refused(Exception):
    """The client caused the error. Its request was not forwarded, or not completely."""

    http_status: ClassVar[int] = 400


class BadControlHeader(Refused):
    """A control header is repeated, or has an invalid value."""


class BodyTooLarge(Refused):
    """The body is longer than the route allows."""

    http_status = 413

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"the body is longer than {max_bytes} bytes")


class LengthRequired(Refused):
    """The server cannot know where the body ends."""

    http_status = 411

    def __init__(self) -> None:
        super().__init__("this server cannot tell where a body without a Content-Length ends")


class UploadBroken(Refused):
    """The client left before the whole body had arrived."""


def failed(
    error: ServeBridgeError | Refused, request_id: str | None, *, from_adapter: bool = False, ran: bool = False
) -> Answer:
    """Return the problem document for a request without an answer of user code.

    With *from_adapter*, a missing endpoint is a 503, as is every error in `errors.UNAVAILABLE`. With *ran*, other code
    had begun to answer the request, so *error* does not prove that nothing ran.
    """
    is_unavailable = isinstance(error, UNAVAILABLE) and (from_adapter or error.http_status == 503)
    return refusal_answer(
        503 if is_unavailable else error.http_status,
        _detail(error),
        request_id,
        executed="unknown" if ran else getattr(error, "executed", None),
        retry=is_unavailable,
    )


def _detail(error: ServeBridgeError | Refused) -> str | None:
    # Other errors of serve_bridge may tell the client about the inside of the site.
    if isinstance(error, Refused):
        return str(error)
    return "the server is too busy, or starting" if isinstance(error, BackendOverloaded) else None
