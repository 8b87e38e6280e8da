"""The bridge of an app: it forwards requests to the endpoints of an instance. All adapters share it.

Rule 1: an answer and a failure both become an `Outcome`. The adapter translates the outcome for its framework.
Rule 2: the headers Cookie and Authorization belong to the app. The bridge forwards them only if the route says so.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any
from uuid import UUID

from starlette.types import Receive, Scope, Send

from serve_bridge.adapters.bridge.forwarded_route import ForwardedRoute
from serve_bridge.adapters.bridge.outcome import (
    Outcome,
    answered,
    log_backend_failure,
    logger,
    refused,
    request_ids,
)
from serve_bridge.adapters.bridge.reconnecting_client import ReconnectingClient
from serve_bridge.adapters.bridge.request_context import plain_text
from serve_bridge.adapters.bridge.websocket_refusal import refuse_websocket
from serve_bridge.errors import ServeBridgeError
from serve_bridge.forwarding.allowance import WORKER_ALLOWANCE
from serve_bridge.forwarding.answer import forward
from serve_bridge.forwarding.blocking import forward_blocking
from serve_bridge.forwarding.declared_length import LoopBody, declared_length
from serve_bridge.forwarding.refusals import BodyTooLarge, Refused
from serve_bridge.forwarding.request import ForwardedRequest
from serve_bridge.forwarding.websocket import forward_websocket
from serve_bridge.http.body_length import body_length
from serve_bridge.http.paths import ascii_query
from serve_bridge.http.readable import Readable
from serve_bridge.routing.channel import Channel
from serve_bridge.wire.heads import RawPathParams


class Bridge(ReconnectingClient):
    """One app's bridge to an instance: it forwards requests and WebSockets."""

    def ask(
        self,
        route: ForwardedRoute,
        scope: Scope,
        path_params: Mapping[str, Any],
        body: bytes | Readable,
        web_request: Any,
    ) -> Outcome:
        """Forward a request from a thread of a web worker, and wait for the head of the answer.

        Args:
            route: The route of the request.
            scope: The ASGI scope that describes the request.
            path_params: The path parameters, converted by the framework.
            body: The whole body, or a file from which the body is read.
            web_request: The request as the framework has it, for the `context` of the route.

        Raises:
            Exception: Reading *body*, or the `context` function of the route, has raised it. An OSError of *body*
                becomes an outcome instead.
        """
        request = None
        try:
            request = self._request(route, scope, path_params, web_request)
            length = body_length(scope)
            answer = forward_blocking(self.link(), request, body, length=length, max_bytes=route.max_body_bytes)
        except (Refused, ServeBridgeError) as error:
            return refused(error, request)
        return answered(answer.status, answer.headers, answer.body, answer.failure)

    async def ask_async(
        self,
        route: ForwardedRoute,
        scope: Scope,
        path_params: Mapping[str, Any],
        body: bytes | Receive,
        web_request: Any,
        channel: Channel | None = None,
    ) -> Outcome:
        """Forward a request as `ask` does, on the running loop.

        *body* is the whole body, or an ASGI `receive` that streams it. A caller that has the loop's *channel* already
        passes it.
        """
        request = None
        try:
            request = self._request(route, scope, path_params, web_request)
            if isinstance(body, bytes):
                if route.max_body_bytes is not None and len(body) > route.max_body_bytes:
                    raise BodyTooLarge(route.max_body_bytes)
                request.take_body(body)
            else:
                await request.receive_body(_limited(body, scope, route.max_body_bytes))
            if channel is None:
                channel = await self._channel(request)
            streams = isinstance(request.body, AsyncIterator)
            if streams and channel.router.needs_whole_body(request, request.method_name):
                await request.collect(WORKER_ALLOWANCE)
            answer = await forward(channel.router, request)
        except (Refused, ServeBridgeError) as error:
            return refused(error, request)
        length = declared_length(request, answer.status, answer.headers)
        received = answer.body
        content: Any = received
        if not isinstance(received, bytes):
            content = LoopBody(received.pieces(), length, received.close)
        elif length is not None and length != len(received):
            content = LoopBody(_one_piece(received), length, lambda: None)
        return answered(answer.status, answer.headers, content, answer.failure)

    async def websocket(
        self,
        route: ForwardedRoute,
        scope: Scope,
        path_params: Mapping[str, Any],
        receive: Receive,
        send: Send,
        web_request: Any,
    ) -> None:
        """Forward a WebSocket until it closes, on the running loop. The caller has received no message of it yet.

        In every case the client gets an answer to its handshake, and a close. The timeout of the route limits the
        handshake only.
        """
        request = None
        try:
            request = self._request(route, scope, path_params, web_request)
            channel = await self._channel(request)
        except (Refused, ServeBridgeError) as error:
            await refuse_websocket(refused(error, request), scope, receive, send)
            return
        await forward_websocket(
            channel.router, request, scope, receive, send, logger=logger, on_failure=log_backend_failure
        )

    async def _channel(self, request: ForwardedRequest) -> Channel:
        """Return the channel of the running loop. The time to open it counts towards the timeout of *request*."""
        began = time.monotonic()
        channel = await (await self.alink()).channel(request.timeout_s)
        request.timeout_s -= time.monotonic() - began
        return channel

    def _request(
        self, route: ForwardedRoute, scope: Scope, path_params: Mapping[str, Any], web_request: Any
    ) -> ForwardedRequest:
        return ForwardedRequest(
            route.endpoint,
            raw_params(path_params),
            _conforming(scope),
            timeout_s=self.timeout_s if route.timeout_s is None else route.timeout_s,
            request_ids=request_ids,
            call_method=route.call_method,
            timeout_header=route.timeout_header,
            credentials=route.credentials,
            from_adapter=True,
            context=dict(route.context(web_request)) if route.context is not None else None,
        )


def _conforming(scope: Scope) -> Scope:
    """Return *scope* as ASGI requires it: with an ASCII query, and with numbers as ports.

    WSGI servers pass the bytes of the query on, whatever they are. At least one ASGI server passes ports as text.
    """
    query = scope["query_string"]
    if not query.isascii():
        scope = {**scope, "query_string": ascii_query(query)}
    for end in ("client", "server"):
        pair = scope.get(end)
        if pair and isinstance(pair[1], str):
            scope = {**scope, end: (pair[0], int(pair[1]))}
    return scope


def raw_params(path_params: Mapping[str, Any]) -> RawPathParams:
    """Return path parameters, converted by a framework, as the data plane sends them; unknown types become text."""
    if not path_params:
        return ()
    return tuple((name, *_kind_and_text(value)) for name, value in path_params.items())


def _kind_and_text(value: Any) -> tuple[str, str]:
    if isinstance(value, bool):
        return "str", str(value)
    if isinstance(value, int):
        return "int", str(int(value))
    if isinstance(value, float):
        return "float", str(float(value))
    return "uuid" if isinstance(value, UUID) else "str", plain_text(value)


def _limited(receive: Receive, scope: Scope, most: int | None) -> Receive:
    """Return a `receive` that raises BodyTooLarge after more than *most* bytes.

    Raises:
        BodyTooLarge: The Content-Length is greater than *most*.
    """
    if most is None:
        return receive
    if (body_length(scope) or 0) > most:
        raise BodyTooLarge(most)
    received = 0

    async def limited() -> Any:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > most:
            raise BodyTooLarge(most)
        return message

    return limited


async def _one_piece(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body
