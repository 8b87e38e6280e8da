"""HTTP answers as values, and the checks before they are sent.

Rule 1: status, header fields and length are checked here. So user code cannot inject a header or a second answer.
Rule 2: a client sees each failure as a problem document (RFC 9457), and `problem` makes all of them.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

import msgspec

from serve_bridge.errors import SerializationError
from serve_bridge.http.headers import EXECUTED, NO_TRAILERS, REQUEST_ID, HeaderList, fault_of, lowered
from serve_bridge.http.json_encoding import as_json

MAX_TRAILERS: Final = 100
"""Upper limit for the trailers of one answer."""
RETRY_AFTER_S: Final = 1
"""Value of `Retry-After` in seconds. It is short, because queues are short and an instance restarts within seconds."""
_PROBLEM: Final = b"application/problem+json"
_TITLES: Final = {status.value: status.phrase for status in HTTPStatus} | {413: "Content Too Large"}
"""Titles of problem documents. Python 3.11 and 3.12 have the title of an older RFC for 413."""


class Answer(msgspec.Struct, frozen=True):
    """A complete answer. The headers include the length of the body."""

    status: int
    headers: HeaderList
    body: bytes


def unavailable(title: str, detail: str | None = None, request_id: str | None = None) -> Answer:
    """Return a 503 with `Retry-After`."""
    answer = problem(503, title, detail, request_id)
    answer.headers.append((b"retry-after", b"%d" % RETRY_AFTER_S))
    return answer


def problem(
    status: int, title: str, detail: str | None = None, request_id: str | None = None, **members: Any
) -> Answer:
    """Return an `application/problem+json` answer (RFC 9457). Members with the value None are left out."""
    known = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "request_id": request_id,
    }
    content = {name: value for name, value in {**known, **members}.items() if value is not None}
    return whole_answer(as_json(content), _PROBLEM, status)


def is_bodyless(status: int) -> bool:
    """Return whether an answer with this status never has a body (RFC 9110 section 6.4.1)."""
    return status < 200 or status == 204 or status == 304


def check_head(status: object, headers: HeaderList) -> int:
    """Check the status and the headers of an answer, and return the status as an int.

    Raises:
        SerializationError: The status is not from 102 to 599. Or a header is not a pair of bytes, a name is not a
            token, a value has a control character, `Content-Length` is repeated, or the headers are longer than
            `MAX_HEADER_BYTES`.
    """
    if not isinstance(status, int) or not (101 < status < 600):
        raise SerializationError(f"status {status!r} cannot be sent: a final status is an int of 102..599")
    if headers:
        _check_headers(headers)
    return int(status)


def fit_head(status: object, headers: HeaderList) -> tuple[int, HeaderList]:
    """Check the head of an answer from user code, and return it with the names of the headers in lower case.

    ASGI and WSGI allow names in any case. The engine compares names without another conversion.

    Raises:
        SerializationError: As `check_head`.
    """
    fit = check_head(status, headers)
    return fit, lowered(headers)


def fit_trailers(headers: HeaderList) -> HeaderList:
    """Return the *headers* that are allowed as trailers, with their names in lower case.

    Raises:
        SerializationError: A header is unfit as in `check_head`, or there are more than `MAX_TRAILERS`.
    """
    if headers:
        _check_headers(headers)
    if len(headers) > MAX_TRAILERS:
        raise SerializationError(f"{len(headers)} trailers cannot be sent; the limit is {MAX_TRAILERS}")
    return [
        pair
        for pair in lowered(headers)
        if pair[0] not in NO_TRAILERS and not pair[0].startswith((b"x-serve-", b"if-"))
    ]


def _check_headers(headers: HeaderList) -> None:
    fault = fault_of(headers)
    if fault is not None:
        raise SerializationError(fault)


def whole_answer(body: bytes, media_type: bytes, status: int = 200) -> Answer:
    """Return an answer with *body*, its length and its media type."""
    return Answer(status, [(b"content-length", b"%d" % len(body)), (b"content-type", media_type)], body)


class AnswerBroken(ConnectionError):
    """An answer ended early. The server must abort its connection, so that the client does not take it for complete."""


def refusal_answer(
    status: int, detail: str | None, request_id: str | None, *, executed: str | None = None, retry: bool = False
) -> Answer:
    """Return the problem document for a refused or failed request.

    Args:
        status: Status of the answer.
        detail: One clause for the client.
        request_id: Id of the request, if it has one.
        executed: "no" if user code provably did not run; otherwise "unknown". None: the answer does not tell.
        retry: Whether the answer has `Retry-After`.
    """
    answer = problem(status, _TITLES.get(status, "Error"), detail, request_id)
    if request_id is not None:
        answer.headers.append((REQUEST_ID, request_id.encode()))
    if executed is not None:
        answer.headers.append((EXECUTED, executed.encode()))
    if retry:
        answer.headers.append((b"retry-after", b"%d" % RETRY_AFTER_S))
    return answer
