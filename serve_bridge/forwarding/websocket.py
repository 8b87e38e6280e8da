"""A WebSocket on its way to an endpoint, from the proxy or from an adapter.

Rule 1: One stream carries the WebSocket. The client's messages are the body of the request, and the messages of user
    code are the body of the answer.
Rule 2: At most one message is buffered in each direction. Beyond it, back-pressure reaches the sender.
Rule 3: The side that ends the WebSocket gives the other side a close code. A broken WebSocket closes with 1011, or
    with 1001 if the replica retires.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

from starlette.types import Message, Receive, Scope, Send

from serve_bridge.config.options import MESSAGE_BYTES
from serve_bridge.errors import ServeBridgeError
from serve_bridge.forwarding.answer import read_head
from serve_bridge.forwarding.refusals import failed
from serve_bridge.forwarding.request import ForwardedRequest
from serve_bridge.forwarding.websocket_client import WebSocketClient
from serve_bridge.http.answers import Answer, AnswerBroken
from serve_bridge.routing.outgoing_request import Routed
from serve_bridge.routing.router import Router
from serve_bridge.wire import websocket_messages as websocket
from serve_bridge.wire.caller_end import CallerStream
from serve_bridge.wire.endings import Aborted, Lost
from serve_bridge.wire.frames import END, Frame
from serve_bridge.wire.heads import HttpFailure
from serve_bridge.wire.websocket_messages import Hold


async def forward_websocket(
    router: Router,
    request: ForwardedRequest,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    logger: logging.Logger,
    on_failure: Callable[[HttpFailure, str], object],
    max_message_bytes: int = MESSAGE_BYTES,
    hold: Hold | None = None,
    refuse: Callable[[ServeBridgeError, str], Answer] | None = None,
) -> int | None:
    """Carry a WebSocket from its handshake to its end, on the loop of *router*.

    `request.timeout_s` limits the handshake. In every case the client gets an answer or a close.

    Args:
        router: The router of the running loop.
        request: The request made from *scope*. No message has been received yet.
        scope: The scope of the ASGI WebSocket.
        receive: The receive of the ASGI WebSocket.
        send: The send of the ASGI WebSocket.
        logger: The logger of the proxy or the adapter.
        on_failure: Called with the exception of user code before it accepted, and the id of the request.
        max_message_bytes: Upper limit for a message in bytes, in both directions. A longer message closes the
            WebSocket with 1009.
        hold: Called with the number of received bytes of an incomplete message of user code; see `MessageReader`. If it
            returns False, there is no room for them, and the WebSocket closes with 1013.
        refuse: Logs the error that ends a request before it has an answer, and returns the answer for it and the id of
            the request. None: the error is one line in the log.

    Returns:
        The status of the handshake: 101 if it was accepted, otherwise the status of the denial. None: the client left
        first.
    """
    if (await receive())["type"] != "websocket.connect":
        return None
    client = WebSocketClient(receive, send, max_message_bytes, hold)
    request.body = client
    try:
        routed = await _shake_hands(router, request, client)
        return None if routed is None else await _answer(*routed, request, scope, client, logger, on_failure)
    except ServeBridgeError as error:  # no answer was sent yet
        if refuse is None:
            logger.warning("request %s: %s: %s", request.request_id, type(error).__name__, error)
            answer = failed(error, request.request_id, from_adapter=request.from_adapter)
        else:
            answer = refuse(error, request.request_id)
        return await deny(scope, send, answer)
    finally:
        client.end()


async def _answer(
    stream: CallerStream,
    frame: Frame,
    request: ForwardedRequest,
    scope: Scope,
    client: WebSocketClient,
    logger: logging.Logger,
    on_failure: Callable[[HttpFailure, str], object],
) -> int:
    try:
        head, headers = read_head(frame.payload, request)
        if head.failure is not None:
            on_failure(head.failure, request.request_id)
        if head.status == websocket.SWITCHING:
            await client.carry(stream, headers, request.request_id, logger)
            return head.status
        chunks = None if frame.flags & END else stream.chunks()
        return await deny(scope, client.send, Answer(head.status, headers, head.body), chunks)
    finally:
        stream.cancel()


async def deny(scope: Scope, send: Send, answer: Answer, chunks: AsyncIterator[bytes] | None = None) -> int:
    """Deny the handshake with *answer*, and return the status for the client.

    If *chunks* are given, they are the body of the answer. A server without the ASGI extension for denials can only
    close, with 403.

    Raises:
        AnswerBroken: The chunks ended early.
    """
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": websocket.NORMAL})
        return 403
    await send({"type": "websocket.http.response.start", "status": answer.status, "headers": answer.headers})
    if chunks is not None:
        try:
            async for chunk in chunks:
                await send({"type": "websocket.http.response.body", "body": chunk, "more_body": True})
        except (Lost, Aborted, ServeBridgeError) as error:
            raise AnswerBroken("the denial broke off") from error
    await send({"type": "websocket.http.response.body", "body": answer.body})
    return answer.status


async def _shake_hands(router: Router, request: ForwardedRequest, client: WebSocketClient) -> Routed | None:
    """Send the handshake to a replica and return what answers it; None if the client leaves first."""
    routing = asyncio.get_running_loop().create_task(router.route(request, deadline_covers_body=False))
    try:
        await asyncio.wait((routing, client.first), return_when=asyncio.FIRST_COMPLETED)
        if routing.done() or not _is_disconnect(client.first.result()):
            return await asyncio.shield(routing)
    except asyncio.CancelledError:
        _withdraw(routing)
        raise
    _withdraw(routing)
    return None


def _withdraw(routing: asyncio.Task[Routed]) -> None:
    """Cancel the handshake, or the stream that it has already opened."""

    def close(routing: asyncio.Task[Routed]) -> None:
        if not routing.cancelled() and routing.exception() is None:
            routing.result()[0].cancel()

    routing.cancel()
    routing.add_done_callback(close)


def _is_disconnect(message: Message) -> bool:
    return bool(message["type"] == "websocket.disconnect")
