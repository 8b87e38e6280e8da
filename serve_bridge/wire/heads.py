"""The heads of requests and answers, which cross processes.

Rule 1: all values are frozen, so threads may share them.
Rule 2: data from HTTP is strictly typed, and msgpack reads it. Only the bodies of Python calls are pickles.
Rule 3: malformed bytes are always a `ProtocolError`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from serve_bridge.errors import ProtocolError
from serve_bridge.http.headers import HeaderList

_Value = TypeVar("_Value")


RawPathParams = tuple[tuple[str, str, str], ...]
"""Name, converter of Starlette and text of each path parameter. The replica converts the text."""

MAX_CALL_BYTES: Final = 2 << 30
"""Upper limit for the arguments or the result of a Python call, in bytes. It is checked before any of them is kept."""
INLINE_BODY_BYTES: Final = 64 * 1024
"""Upper limit in bytes for a body inside the frame of its head. A longer body follows in DATA frames."""


encode_head: Final = msgspec.msgpack.Encoder().encode
"""Returns the bytes of a head, or of another frozen value that crosses processes."""


def decoder(kind: type[_Value]) -> Callable[[Any], _Value]:
    """Return the function that reads a value of *kind* from bytes. It raises ProtocolError for malformed bytes."""
    decode = msgspec.msgpack.Decoder(kind).decode

    def read(data: Any) -> _Value:
        try:
            return decode(data)
        except ValueError as error:  # from msgspec, or because text is not UTF-8
            raise ProtocolError(f"a {kind.__name__} is malformed: {error}") from None

    return read


class HttpHead(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The head of a REQUEST frame: an HTTP request, with its body if that is short.

    Attributes:
        endpoint, backend: Target of the request. Replicas of other backends reject it.
        version: Version of the caller's routing table.
        timeout_s: Seconds for which the caller still waits.
        call_method: Method of the backend to call; empty: `__call__`.
        forwarded: True from an adapter (the backend gets a ServeRequest), False from the proxy (Starlette's Request).
        scheme, raw_path, root_path, client, server: As in the caller's ASGI scope; None: unknown.
        context: Data from the web application for `request.state` in the backend.
        body: The whole body, if the frame ends the request.
        subprotocols: Subprotocols offered by the client of a WebSocket; None if the request is not a WebSocket. An
            accepted WebSocket is answered with status 101. Its messages follow (see `websocket_messages`).
        trailers: Whether the caller passes trailers to its client.
        body_length: Length of the body in bytes, from the server that framed the request; None: unknown until it ends.
    """

    endpoint: str
    backend: str
    version: int
    timeout_s: float
    request_id: str
    call_method: str
    method: str
    scheme: str | None
    http_version: str
    path: str
    raw_path: bytes | None
    root_path: str | None
    query: bytes
    headers: HeaderList
    path_params: RawPathParams
    client: tuple[str, int] | None
    server: tuple[str, int | None] | None
    forwarded: bool
    context: dict[str, str | int | float | bool | None] | None
    body: bytes
    subprotocols: tuple[str, ...] | None = None
    trailers: bool = False
    body_length: int | None = 0


class HttpFailure(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An exception of user code for an HTTP request. The proxy and the adapters log it and never send it to the client.

    Attributes:
        backend: Name of the backend.
        type_name: Name of the exception's class.
        text: Text of the exception.
        traceback: Traceback as text. Only the last part of a long traceback is kept.
    """

    backend: str
    type_name: str
    text: str
    traceback: str


class HttpAnswer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The head of the RESPONSE to a REQUEST.

    Attributes:
        body: The whole body, if the frame ends the stream.
        failure: Exception of user code; None if user code made the answer.
        trailers: Whether the last frame of the stream has trailers instead of body bytes, encoded as the headers are.
        complete: Whether user code has already made the whole body, so that it follows at once.
    """

    status: int
    headers: HeaderList
    body: bytes
    failure: HttpFailure | None = None
    trailers: bool = False
    complete: bool = False


class CallHead(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The head of a CALL frame: a Python call.

    Attributes:
        size: Size of the pickled arguments in bytes. They are *body*, or follow in DATA frames if they are longer.
        generator: Whether the caller iterates over the answer.
        submitter: Id of the calling process, for calls over Ray (which are counted) and for operations of the
            controller; empty for other calls.
    """

    endpoint: str
    backend: str
    version: int
    timeout_s: float
    request_id: str
    call_method: str
    http_method: str
    headers: dict[str, str] | None
    generator: bool
    size: int
    body: bytes
    submitter: str = ""


class CallAnswer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The head of the RESPONSE to a CALL.

    Attributes:
        failed: Whether the payload is a failure (see `wire.failure`) and not a value.
        size: Size of the payload in bytes, inline or in DATA frames; -1: each item of a generator follows as a message.
    """

    failed: bool
    size: int
    body: bytes


class Rejection(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The payload of a REJECT frame: the reason why the replica did not start the request.

    Attributes:
        reason: "full", "draining", "expired", "foreign", "not exposed" or "not allowed".
        detail: A sentence for the caller.
    """

    reason: str
    detail: str = ""
