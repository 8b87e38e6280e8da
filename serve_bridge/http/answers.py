"""HTTP answers as values, and the checks which make them safe to send.

Rule 1: status, header fields and length are checked here, so no answer can be split in two on its way.
Rule 2: every failure that a client sees is a problem document (RFC 9457) made by `problem`.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

import msgspec

from serve_bridge.errors import SerializationError
from serve_bridge.http.headers import NO_TRAILERS, REQUEST_ID, HeaderList, fault_of, lowered
from serve_bridge.http.json_encoding import as_json

MAX_TRAILERS: Final = 100
"""Upper limit for the trailers of one answer."""
RETRY_AFTER_S: Final = 1
"""Seconds in `Retry-After`: queues are short, and an instance starts again within seconds."""
_PROBLEM: Final = b"application/problem+json"
_TITLES: Final = {status.value: status.phrase for status in HTTPStatus} | {413: "Content Too Large"}
"""Python 3.11 and 3.12 name 413 by an older RFC."""


class Answer(msgspec.Struct, frozen=True):
    """A whole answer: status, headers with their length, body."""

    status: int
    headers: HeaderList
    body: bytes


def unavailable(title: str, detail: str | None = None, request_id: str | None = None) -> Answer:
    """Return a 503 that asks the client to try again soon."""
    answer = problem(503, title, detail, request_id)
    answer.headers.append((b"retry-after", b"%d" % RETRY_AFTER_S))
    return answer


def problem(
    status: int, title: str, detail: str | None = None, request_id: str | None = None, **members: Any
) -> Answer:
    """Return an `application/problem+json` answer (RFC 9457); members that are None are left out."""
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
    """Return whether an answer of this status never has a body (RFC 9110 section 6.4.1)."""
    return status < 200 or status == 204 or status == 304


def check_head(status: object, headers: HeaderList) -> int:
    """Return the status as an int, once it and the headers are known to be fit for the wire.

    Raises:
        SerializationError: The status is not one of 102..599; a header is no pair of bytes; a name is no
            token; a value holds a control character; a length is there twice; all is above MAX_HEADER_BYTES.
    """
    if not isinstance(status, int) or not (101 < status < 600):
        raise SerializationError(f"status {status!r} cannot be sent: a final status is an int of 102..599")
    if headers:
        _check_headers(headers)
    return int(status)


def fit_head(status: object, headers: HeaderList) -> tuple[int, HeaderList]:
    """Return status and headers of an answer as they enter the engine: names in lower case.

    User code may write names as it likes (ASGI and WSGI allow it); behind this function all compare them as they are.

    Raises:
        SerializationError: As `check_head`.
    """
    fit = check_head(status, headers)
    return fit, lowered(headers)


def fit_trailers(headers: HeaderList) -> HeaderList:
    """Return those of *headers* that may follow a body, in lower case.

    Raises:
        SerializationError: They cannot be sent: as `check_head` says of headers, or there are above `MAX_TRAILERS`.
    """
    if headers:
        _check_headers(headers)
    if len(headers) > MAX_TRAILERS:
        raise SerializationError(f"{len(headers)} trailers cannot be sent: {MAX_TRAILERS} are the most")
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
    """Return *body* as an answer whose headers give its length and its media type."""
    return Answer(status, [(b"content-length", b"%d" % len(body)), (b"content-type", media_type)], body)


class AnswerBroken(ConnectionError):
    """An answer ended early. The server must abort its connection, so that the client does not take it for complete."""


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
