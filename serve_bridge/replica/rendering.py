"""What user code returned, as an HTTP answer.

Rule 1: the type of the result decides, once; nothing here knows the request but for `head`.
Rule 2: no answer leaves this module that could be split: status, headers and length are checked before.
Rule 3: a result without a type of its own in HTTP is JSON, as `http.json_encoding` encodes it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from types import AsyncGeneratorType, GeneratorType
from typing import Any, Final, TypeAlias

import msgspec
from starlette.concurrency import iterate_in_threadpool
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)

from serve_bridge.errors import SerializationError
from serve_bridge.http.headers import MAX_HEADER_BYTES, NO_TRAILERS, fault_of, lowered
from serve_bridge.http.json_encoding import as_json, class_of

__all__ = [
    "MAX_HEADER_BYTES",
    "Answer",
    "StreamOf",
    "check_head",
    "fit_head",
    "fit_trailers",
    "is_bodyless",
    "problem",
    "render",
    "threaded_content",
    "unavailable",
]

Headers: TypeAlias = list[tuple[bytes, bytes]]

MAX_TRAILERS: Final = 100
"""As many trailers an answer may have."""

RETRY_AFTER_S: Final = 1
"""What `Retry-After` says, in seconds: queues are short, and an instance starts again within seconds."""

_TEXT: Final = b"text/plain; charset=utf-8"
_BYTES: Final = b"application/octet-stream"
_JSON: Final = b"application/json"
_JSON_LINES: Final = b"application/x-ndjson"
_PROBLEM: Final = b"application/problem+json"


class Answer(msgspec.Struct, frozen=True):
    """A whole answer: status, headers with their length, body."""

    status: int
    headers: Headers
    body: bytes


class StreamOf(msgspec.Struct, frozen=True):
    """An answer that a generator of user code yields, chunk by chunk, with status 200.

    Attributes:
        chunks: What the generator yields, not yet encoded.
    """

    chunks: Iterator[Any] | AsyncIterator[Any]

    @staticmethod
    def media_type_of(chunk: object) -> bytes:
        """Return the media type of a stream that begins with *chunk*."""
        if isinstance(chunk, str):
            return _TEXT
        return _BYTES if isinstance(chunk, bytes | bytearray | memoryview) else _JSON_LINES

    @staticmethod
    def encode(chunk: object) -> bytes:
        """Return *chunk* as bytes: text as UTF-8, bytes as they are, all else as a line of JSON.

        Raises:
            SerializationError: The chunk cannot be encoded.
        """
        if isinstance(chunk, str):
            return _utf8(chunk)
        if isinstance(chunk, bytes | bytearray | memoryview):
            return bytes(chunk)
        return as_json(chunk) + b"\n"


def render(result: object, *, head: bool = False) -> Answer | Response | StreamOf:
    """Return *result* as what goes out.

    Args:
        result: What user code returned; a coroutine has been awaited.
        head: Whether the request was HEAD, whose answer may name a length that its empty body has not.

    Returns:
        An `Answer`, a `Response` that must run as an ASGI application (streams, files, background tasks,
        subclasses with a `__call__` of their own), or a `StreamOf` a generator.

    Raises:
        SerializationError: The result cannot be encoded, or its status or headers cannot be sent.
    """
    renderer = _RENDERERS.get(type(result)) or _renderer(result)
    if renderer is _from_response and head:
        return _from_response(result, head=True)
    return renderer(result)


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
    return _answer(as_json(content), _PROBLEM, status)


def is_bodyless(status: int) -> bool:
    """Return whether an answer of this status never has a body (RFC 9110 section 6.4.1)."""
    return status < 200 or status == 204 or status == 304


def check_head(status: object, headers: Headers) -> int:
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


def fit_head(status: object, headers: Headers) -> tuple[int, Headers]:
    """Return status and headers of an answer as they enter the engine: names in lower case.

    User code may write names as it likes (ASGI and WSGI allow it); behind this function all compare them as they are.

    Raises:
        SerializationError: As `check_head`.
    """
    fit = check_head(status, headers)
    return fit, lowered(headers)


def fit_trailers(headers: Headers) -> Headers:
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


def threaded_content(response: StreamingResponse) -> Iterator[Any] | None:
    """Return the synchronous content of *response*, which Starlette would iterate on threads; None: it is not."""
    wrapper = response.body_iterator
    if not isinstance(wrapper, AsyncGeneratorType) or wrapper.ag_code is not iterate_in_threadpool.__code__:
        return None
    frame = wrapper.ag_frame  # None: it has been iterated to its end
    return None if frame is None else iter(frame.f_locals["iterator"])


def _check_headers(headers: Headers) -> None:
    fault = fault_of(headers)
    if fault is not None:
        raise SerializationError(fault)


def _answer(body: bytes, media_type: bytes, status: int = 200) -> Answer:
    return Answer(status, [(b"content-length", b"%d" % len(body)), (b"content-type", media_type)], body)


def _from_none(_: object) -> Answer:
    return Answer(200, [(b"content-length", b"0")], b"")


def _from_text(text: Any) -> Answer:
    return _answer(_utf8(text), _TEXT)


def _from_bytes(content: Any) -> Answer:
    return _answer(bytes(content), _BYTES)


def _from_json(value: object) -> Answer:
    return _answer(as_json(value), _JSON)


def _from_generator(chunks: Any) -> StreamOf:
    return StreamOf(chunks)


def _from_response(response: Any, *, head: bool = False) -> Answer | Response:
    status, raw = fit_head(response.status_code, response.raw_headers)
    if response.background is not None or type(response).__call__ is not Response.__call__:
        return response  # type: ignore[no-any-return]
    body = response.body
    if not isinstance(body, bytes):
        body = _whole_body(body)
    if is_bodyless(status):
        # None of these has a body, and only 304 may name the length it would have had.
        kept = [pair for pair in raw if status == 304 or pair[0] != b"content-length"]
        return Answer(status, kept, b"")
    return Answer(status, _with_length(raw, body, head), body)


def _whole_body(body: object) -> bytes:
    if not isinstance(body, bytearray | memoryview):
        raise SerializationError(f"the body of a Response must be bytes, got {class_of(body)}")
    return bytes(body)


def _with_length(headers: Headers, body: bytes, head: bool) -> Headers:
    for name, value in headers:
        if name == b"content-length":
            if int(value) != len(body) and not (head and not body):
                raise SerializationError(f"Content-Length {value.decode()} is wrong: the body has {len(body)} bytes")
            return list(headers)
    return [*headers, (b"content-length", b"%d" % len(body))]


_RENDERERS: Final[dict[type, Callable[[Any], Answer | Response | StreamOf]]] = {
    type(None): _from_none,
    str: _from_text,
    **dict.fromkeys((bytes, bytearray, memoryview), _from_bytes),
    **dict.fromkeys((dict, list, tuple, int, float, bool), _from_json),
    **dict.fromkeys((Response, JSONResponse, PlainTextResponse, HTMLResponse, RedirectResponse), _from_response),
    **dict.fromkeys((GeneratorType, AsyncGeneratorType), _from_generator),
}


def _renderer(result: object) -> Callable[[Any], Answer | Response | StreamOf]:
    """Return the renderer of a type that is not in the table."""
    if isinstance(result, Response):
        return _from_response
    if isinstance(result, str):
        return _from_text
    if isinstance(result, bytes | bytearray):
        return _from_bytes
    return _from_generator if isinstance(result, Generator | AsyncGenerator) else _from_json


def _utf8(text: str) -> bytes:
    try:
        return str.encode(text)
    except UnicodeEncodeError:
        raise SerializationError("a str with lone surrogates cannot be encoded as UTF-8") from None
