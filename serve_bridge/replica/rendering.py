"""The HTTP answer for a result of user code.

Rule 1: the type of the result decides. The only property of the request used here is whether its method is HEAD.
Rule 2: status, headers and length are checked here, so a client or proxy cannot take one answer for two.
Rule 3: a result of any other type becomes JSON, as `http.json_encoding` encodes it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from types import AsyncGeneratorType, GeneratorType
from typing import Any, Final

import msgspec
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)

from serve_bridge.errors import SerializationError
from serve_bridge.http.answers import Answer, fit_head, is_bodyless, whole_answer
from serve_bridge.http.headers import HeaderList
from serve_bridge.http.json_encoding import as_json
from serve_bridge.http.json_values import class_of

__all__ = [
    "StreamOf",
    "render",
]


_TEXT: Final = b"text/plain; charset=utf-8"
_BYTES: Final = b"application/octet-stream"
_JSON: Final = b"application/json"
_JSON_LINES: Final = b"application/x-ndjson"


class StreamOf(msgspec.Struct, frozen=True):
    """An answer with status 200 whose body a generator of user code yields, chunk by chunk.

    Attributes:
        chunks: The generator; its chunks are not encoded yet.
    """

    chunks: Iterator[Any] | AsyncIterator[Any]

    @staticmethod
    def media_type_of(chunk: object) -> bytes:
        """Return the media type of a stream whose first chunk is *chunk*."""
        if isinstance(chunk, str):
            return _TEXT
        return _BYTES if isinstance(chunk, bytes | bytearray | memoryview) else _JSON_LINES

    @staticmethod
    def encode(chunk: object) -> bytes:
        """Return *chunk* as bytes: text as UTF-8, bytes as they are, any other value as a line of JSON.

        Raises:
            SerializationError: The chunk cannot be encoded.
        """
        if isinstance(chunk, str):
            return _utf8(chunk)
        if isinstance(chunk, bytes | bytearray | memoryview):
            return bytes(chunk)
        return as_json(chunk) + b"\n"


def render(result: object, *, head: bool = False) -> Answer | Response | StreamOf:
    """Return the answer for *result*.

    Args:
        result: The result of user code; not a coroutine.
        head: Whether the method is HEAD. Such an answer has no body, but may give the length of the body for GET.

    Returns:
        An `Answer`; a `Response` to run as an ASGI application (streams, files, background tasks, subclasses with a
        `__call__` of their own); or a `StreamOf` for a generator.

    Raises:
        SerializationError: The result cannot be encoded, or its status or headers cannot be sent.
    """
    renderer = _RENDERERS.get(type(result)) or _renderer(result)
    if renderer is _from_response and head:
        return _from_response(result, head=True)
    return renderer(result)


def _from_none(_: object) -> Answer:
    return Answer(200, [(b"content-length", b"0")], b"")


def _from_text(text: Any) -> Answer:
    return whole_answer(_utf8(text), _TEXT)


def _from_bytes(content: Any) -> Answer:
    return whole_answer(bytes(content), _BYTES)


def _from_json(value: object) -> Answer:
    return whole_answer(as_json(value), _JSON)


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
        # No answer with these statuses has a body. Only 304 may give the length of the body that it does not send.
        kept = [pair for pair in raw if status == 304 or pair[0] != b"content-length"]
        return Answer(status, kept, b"")
    return Answer(status, _with_length(raw, body, head), body)


def _whole_body(body: object) -> bytes:
    if not isinstance(body, bytearray | memoryview):
        raise SerializationError(f"the body of a Response must be bytes, got {class_of(body)}")
    return bytes(body)


def _with_length(headers: HeaderList, body: bytes, head: bool) -> HeaderList:
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
    """Return the renderer for a type outside the table."""
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
