"""An HTTP request on its way to an endpoint, from the proxy or from an adapter.

Rule 1: An ASGI scope describes the request, also if a WSGI server received it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from random import random
from typing import Any, Final, cast

from starlette.types import Receive, Scope

from serve_bridge.context import valid_request_id
from serve_bridge.errors import (
    DeadlineExceeded,
)
from serve_bridge.forwarding.allowance import MAX_KEPT_BYTES, Allowance, KeptBytes
from serve_bridge.forwarding.headers import (
    NOT_FORWARDED,
    NOT_FORWARDED_NOR_CREDENTIALS,
    control_seconds,
    control_text,
    split_headers,
)
from serve_bridge.forwarding.refusals import UploadBroken
from serve_bridge.http.body_length import COLLECTED, body_length
from serve_bridge.http.headers import (
    CALL_METHOD,
    REQUEST_ID,
    SHARD_KEY,
    TIMEOUT,
    TRAILERS,
)
from serve_bridge.http.methods import IDEMPOTENT
from serve_bridge.wire.caller_end import Upload
from serve_bridge.wire.frames import Kind
from serve_bridge.wire.heads import INLINE_BODY_BYTES, HttpHead, RawPathParams, encode_head

_LEFT: Final = "the client left during its upload"


class ForwardedRequest:
    """One HTTP request on its way to a replica (an `OutgoingRequest`).

    Attributes:
        request_id: The id that the client gave, if it is valid; otherwise the next of *request_ids*. User code finds
            it in the header X-Request-Id.
        body: The body after the head; see `OutgoingRequest`.
        kept: The share of an allowance for the body; None: it takes none.
        from_adapter: Whether an adapter forwards the request, and not the proxy.
    """

    __slots__ = (
        "_call_method",
        "_context",
        "_headers",
        "_inline",
        "_length",
        "_params",
        "_scope",
        "_takes_trailers",
        "body",
        "draw",
        "endpoint",
        "from_adapter",
        "idempotent",
        "kept",
        "limit_s",
        "request_id",
        "retried",
        "shard_key",
        "timeout_s",
    )
    kind = Kind.REQUEST

    def __init__(
        self,
        endpoint: str,
        params: RawPathParams,
        scope: Scope,
        *,
        timeout_s: float,
        request_ids: Iterator[str],
        call_method: str | None = None,
        timeout_header: bool = True,
        credentials: bool = True,
        from_adapter: bool = False,
        context: dict[str, Any] | None = None,
    ) -> None:
        """Take the head of the request from *scope*. `take_body` and the methods beside it take the body.

        Args:
            endpoint: Name of the endpoint.
            params: Path parameters.
            scope: ASGI scope of the request.
            timeout_s: Time limit of the whole request in seconds.
            request_ids: Ids for requests without a valid one.
            call_method: Method of the backend; None: the header X-Serve-Call-Method chooses it.
            timeout_header: Whether the header X-Serve-Timeout may shorten *timeout_s*.
            credentials: Whether to forward the headers Cookie and Authorization.
            from_adapter: Whether an adapter forwards the request. Its framework has decided about scheme, client and
                host, so the headers in which a client claims other ones are dropped.
            context: The request context of the app, for user code.

        Raises:
            BadControlHeader: A control header of the client is repeated or invalid.
        """
        self.endpoint: str = endpoint
        self.draw: float = random()
        self.retried: bool = False
        self.kept: KeptBytes | None = None
        self.body: Upload | None = None
        self._inline = b""
        self._length: int | None = 0
        self._params = params
        self._scope = scope
        self.from_adapter: bool = from_adapter
        self._takes_trailers = not from_adapter and "extensions" in scope and TRAILERS in scope["extensions"]
        self._context = context
        method = scope.get("method")
        if method is None:
            scope = self._scope = _handshake(scope)
            method = scope["method"]
        self._headers, control = split_headers(
            scope["headers"],
            NOT_FORWARDED if credentials else NOT_FORWARDED_NOR_CREDENTIALS,
            from_adapter=from_adapter,
        )
        given = control.get(REQUEST_ID)
        valid = None if given is None else valid_request_id(given.decode("latin-1"))
        self.request_id: str = valid or next(request_ids)
        self._headers.append((REQUEST_ID, self.request_id.encode()))
        self.shard_key: str | None = control_text(control, SHARD_KEY)
        asked = TIMEOUT in control and timeout_header
        self.timeout_s: float = min(timeout_s, control_seconds(control[TIMEOUT])) if asked else timeout_s
        self.limit_s: float = self.timeout_s
        self._call_method = (control_text(control, CALL_METHOD) or "") if call_method is None else call_method
        self.idempotent: bool = method in IDEMPOTENT and not self._call_method

    @property
    def is_websocket(self) -> bool:
        """Whether the request is the handshake of a WebSocket."""
        return "subprotocols" in self._scope

    @property
    def has_no_answer_body(self) -> bool:
        """Whether the answer ends with its head, as each answer to HEAD does."""
        return bool(self._scope["method"] == "HEAD")

    def take_body(self, body: bytes) -> None:
        """Take the whole *body*. It can be sent again if a retry is safe."""
        self._length = len(body)
        if len(body) <= INLINE_BODY_BYTES:
            self._inline = body
        else:
            self.body = [body]

    async def receive_body(self, receive: Receive) -> None:
        """Take a short body into the head; stream a longer one from *receive* later.

        While the client waits for a 100 (Continue), no part is received. User code sends the 100 by reading the body.

        Raises:
            UploadBroken: The client has left. If it leaves later, `forward` raises it.
            DeadlineExceeded: No part of the body arrived in time.
        """
        length = body_length(self._scope)
        if length == 0:
            return
        self._length = length
        if any(name == b"expect" for name, _ in self._scope["headers"]):
            self.body = _stream(None, receive)
            return
        began = time.monotonic()
        try:
            async with asyncio.timeout(self.timeout_s):
                message = await receive()
        except TimeoutError:
            raise DeadlineExceeded(
                "the body did not come in time; either the client is slow, or a middleware has read it before", "no"
            ) from None
        self.timeout_s -= time.monotonic() - began
        if message["type"] == "http.disconnect":
            raise UploadBroken(_LEFT)
        chunk = message.get("body", b"")
        if not message.get("more_body", False):
            self._length = len(chunk)
            if len(chunk) <= INLINE_BODY_BYTES:
                self._inline = chunk
                return
        self.body = _stream(message, receive)

    def stream_body(self, pieces: AsyncIterator[bytes], length: int | None) -> None:
        """Take a body in *pieces*. *length* is its length in bytes; None: unknown."""
        self.body = pieces
        self._length = length

    async def collect(self, allowance: Allowance) -> None:
        """Wait for the whole body of a streamed request, before a backend that needs the whole body gets the request.

        A slow upload then holds no slot. If *allowance* has no room for the rest of the body, the rest is streamed.
        `forward` gives the share of the allowance back.

        Raises:
            UploadBroken: The client has left.
            DeadlineExceeded: The body did not arrive in time.
        """
        if (self._length or 0) > MAX_KEPT_BYTES:
            return
        stream = cast(AsyncIterator[bytes], self.body)
        kept = self.kept = KeptBytes(allowance)
        pieces: list[bytes] = []
        began = time.monotonic()
        self._scope[COLLECTED] = True
        try:
            async with asyncio.timeout(self.timeout_s):
                async for piece in stream:
                    pieces.append(piece)
                    if not kept.take(len(piece)):
                        self.body = _after(pieces, stream)
                        return
        except BaseException as error:
            kept.give_back()
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded("the body did not come in time", "no") from None
            raise
        finally:
            del self._scope[COLLECTED]
            self.timeout_s -= time.monotonic() - began
        self.body = None
        self._length = sum(map(len, pieces))
        if self._length <= INLINE_BODY_BYTES:
            self._inline = b"".join(pieces)
        else:
            self.body = pieces

    @property
    def method_name(self) -> str:
        """The called method of the backend."""
        return self._call_method or "__call__"

    def encode(self, backend: str, version: int, timeout_s: float) -> bytes:
        """Return the head; see `OutgoingRequest`."""
        scope = self._scope
        head = HttpHead(
            self.endpoint,
            backend,
            version,
            timeout_s,
            self.request_id,
            self._call_method,
            scope["method"],
            scope.get("scheme"),
            scope.get("http_version", "1.1"),
            scope["path"],
            scope.get("raw_path"),
            scope.get("root_path"),
            scope["query_string"],
            self._headers,
            self._params,
            scope.get("client"),
            scope.get("server"),
            self.from_adapter,
            self._context,
            self._inline,
            scope.get("subprotocols"),
            self._takes_trailers,
            self._length,
        )
        return encode_head(head)


def _handshake(scope: Scope) -> Scope:
    """Return the scope of a WebSocket with the keys of an HTTP scope. Its handshake is a GET (RFC 6455)."""
    return {**scope, "method": "GET", "subprotocols": tuple(scope.get("subprotocols") or ())}


async def _after(pieces: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Iterate *pieces*, and free each one, then iterate *rest*."""
    pieces.reverse()
    while pieces:
        yield pieces.pop()
    async for piece in rest:
        yield piece


async def _stream(message: Mapping[str, Any] | None, receive: Receive) -> AsyncIterator[bytes]:
    while True:
        if message is None:
            message = await receive()
        if message["type"] == "http.disconnect":
            raise UploadBroken(_LEFT)
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body", False):
            return
        message = None
