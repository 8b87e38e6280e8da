"""The values that cross processes: the routing table and the heads of requests and answers.

Rule 1: frozen values only; whoever holds one may share it with any thread.
Rule 2: what comes from HTTP is strictly typed here and read by msgpack; only the bodies of Python calls are pickles.
Rule 3: bytes that are no such value are a `ProtocolError`, whatever is wrong with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from serve_bridge.errors import ProtocolError
from serve_bridge.http.headers import HeaderList

_Value = TypeVar("_Value")


RawPathParams = tuple[tuple[str, str, str], ...]
"""(name, Starlette converter, text) for each path parameter; converted again where the request is read."""

MAX_CALL_BYTES: Final = 2 << 30
"""Arguments or a result above this size are refused before anything is kept of them."""
INLINE_BODY_BYTES: Final = 64 * 1024
"""A body up to this size travels inside its head's frame; a longer one follows in DATA frames."""


encode_head: Final = msgspec.msgpack.Encoder().encode
"""Returns a value of this module, or another frozen value that crosses processes, as bytes."""


def decoder(kind: type[_Value]) -> Callable[[Any], _Value]:
    """Return the function that reads a value of *kind* from bytes.

    It raises ProtocolError if they are none.
    """
    decode = msgspec.msgpack.Decoder(kind).decode

    def read(data: Any) -> _Value:
        try:
            return decode(data)
        except ValueError as error:  # of msgspec, or of text that is no UTF-8
            raise ProtocolError(f"a {kind.__name__} is malformed: {error}") from None

    return read


class HttpHead(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The head of a REQUEST frame: an HTTP request, its body too if that is short.

    Attributes:
        endpoint, backend, version: Whom the caller means, by which table; a replica of another backend rejects it.
        timeout_s: Seconds the caller still waits.
        call_method: Which method of the backend to call; empty: `__call__`.
        forwarded: True from an adapter (the backend gets a ServeRequest), False from the proxy (Starlette's Request).
        scheme, raw_path, root_path, client, server: As in the caller's ASGI scope; None: they are not known.
        context: What the web app lets the backend know as `request.state`.
        body: The whole body, if the frame ends the request.
        subprotocols: What the client of a WebSocket offers; None: no WebSocket. One that is accepted is answered with
            status 101, and its messages follow in both directions (`wire.websocket`).
        trailers: Whether the caller passes trailers on.
        body_length: Bytes of the body, as the server that framed it has said; None: only reading it tells.
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
    """What user code raised for an HTTP request; the proxy and the adapters log it and never send it to the client.

    Attributes:
        backend: Name of the backend.
        type_name: Name of the exception's class.
        text: What the exception says.
        traceback: Its traceback as text; the last part of a long one.
    """

    backend: str
    type_name: str
    text: str
    traceback: str


class HttpAnswer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The head of the RESPONSE to a REQUEST; *body* is the whole body if the frame ends the stream.

    Attributes:
        failure: What user code raised; None if it answered by itself.
        trailers: Whether the frame that ends the stream holds trailers, as a list like the headers, and no body.
        complete: Whether user code has made all of the body, which follows at once.
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
        size: Bytes of the pickled arguments, which are *body* or, if longer, follow in DATA frames.
        generator: Whether the caller iterates the answer.
        submitter: The process that made a call over Ray, which counts its calls, or that asks for an operation of the
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
        size: Bytes of the payload, inline or in DATA frames; -1: a generator's items follow, one message each.
    """

    failed: bool
    size: int
    body: bytes


class Rejection(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The payload of a REJECT frame: why nothing was started.

    Attributes:
        reason: One of "full", "draining", "expired", "foreign", "not exposed", "not allowed".
        detail: A sentence for the caller.
    """

    reason: str
    detail: str = ""
