"""Requests that get no answer of user code: the errors which a client caused, and the problem documents for all.

Rule 1: a failure is an `application/problem+json` with the id of the request; the cause is for the log.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import ClassVar, Final

from serve_bridge.context import valid_request_id
from serve_bridge.errors import UNAVAILABLE, BackendOverloaded, ServeBridgeError
from serve_bridge.http.answers import RETRY_AFTER_S, Answer, problem
from serve_bridge.http.headers import REQUEST_ID, HeaderList

_TITLES: Final = {status.value: status.phrase for status in HTTPStatus} | {413: "Content Too Large"}
"""Python 3.11 and 3.12 name 413 by an older RFC."""


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


class Broken(ConnectionError):
    """The answer ended early; the connection must not look as if it had not."""


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


def refusal_answer(
    status: int, detail: str | None, request_id: str | None, *, executed: str | None = None, retry: bool = False
) -> Answer:
    """Return the problem document of a request that is not served, or failed.

    Args:
        status: Status of the answer.
        detail: One clause for the client.
        request_id: Id of the request; None: it has none.
        executed: "no" or "unknown": whether user code may have run.
        retry: Whether the client may try again soon.
    """
    answer = problem(status, _TITLES.get(status, "Error"), detail, request_id)
    if request_id is not None:
        answer.headers.append((REQUEST_ID, request_id.encode()))
    if executed is not None:
        answer.headers.append((b"x-serve-executed", executed.encode()))
    if retry:
        answer.headers.append((b"retry-after", b"%d" % RETRY_AFTER_S))
    return answer


def client_request_id(headers: HeaderList) -> str | None:
    """Return the id that the client gave its request, if it is a valid one."""
    given = next((value for name, value in headers if name == REQUEST_ID), b"")
    return valid_request_id(given.decode("latin-1"))


def _detail(error: ServeBridgeError | Refused) -> str | None:
    # Of our own errors only these say nothing about the inside.
    if isinstance(error, Refused):
        return str(error)
    return "the server is too busy, or starting" if isinstance(error, BackendOverloaded) else None
