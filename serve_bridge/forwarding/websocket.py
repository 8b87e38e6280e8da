"""A WebSocket on its way to an endpoint: what proxy and adapters share beside `forwarding`.

Rule 1: one stream carries it: its client's messages are the body of the request, those of user code the answer's.
Rule 2: nothing is buffered here but one message each way: who does not read stops who sends, through all of the way.
Rule 3: who ends it says so to the other side, with a code; what merely broke is 1011, or 1001 if the replica retires.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

from starlette.types import Message, Receive, Scope, Send

from serve_bridge.config.http_options import MESSAGE_BYTES
from serve_bridge.errors import ServeBridgeError
from serve_bridge.forwarding.refusals import failed
from serve_bridge.forwarding.reply import read_head
from serve_bridge.forwarding.request import Forwarded
from serve_bridge.http.answers import Answer, AnswerBroken
from serve_bridge.http.headers import SUBPROTOCOL, HeaderList
from serve_bridge.routing.outgoing_request import Routed
from serve_bridge.routing.router import Router
from serve_bridge.wire import websocket_messages as websocket
from serve_bridge.wire.caller_end import CallerStream
from serve_bridge.wire.endings import Aborted, Lost
from serve_bridge.wire.frames import END, Frame
from serve_bridge.wire.heads import HttpFailure
from serve_bridge.wire.payload import Segment, size_of
from serve_bridge.wire.websocket_messages import Close, Hold, MessageReader, MessageTooLong, NoRoom

_logger = logging.getLogger("serve_bridge.forwarding")


async def forward_websocket(
    router: Router,
    request: Forwarded,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    logger: logging.Logger,
    on_failure: Callable[[HttpFailure, str], object],
    max_message_bytes: int = MESSAGE_BYTES,
    hold: Hold | None = None,
) -> int | None:
    """Carry a WebSocket from its handshake to its end, on the loop of *router*.

    Its `timeout_s` is the time for the handshake. Whatever happens, the client has its answer or its close.

    Args:
        router: Of the running loop.
        request: Made from *scope*; nothing has been taken from *receive*.
        scope: Of the ASGI WebSocket.
        receive: Of the ASGI WebSocket.
        send: Of the ASGI WebSocket.
        logger: The logger of the forwarder.
        on_failure: Called with what user code raised before it accepted, and the request's id.
        max_message_bytes: Longest message, either way; a longer one closes the WebSocket with 1009.
        hold: Is told how much is here of a message of user code that has begun; see `MessageReader`. If there is no
            room for it, the WebSocket closes with 1013.

    Returns:
        The status of the handshake: 101 if it was open, else what it was denied with. None: the client left first.
    """
    if (await receive())["type"] != "websocket.connect":
        return None
    client = _Client(receive, send, max_message_bytes, hold)
    request.body = client
    try:
        routed = await _shake_hands(router, request, client)
        return None if routed is None else await _answer(*routed, request, scope, client, logger, on_failure)
    except ServeBridgeError as error:  # before there was an answer
        logger.warning("request %s: %s: %s", request.request_id, type(error).__name__, error)
        return await deny(scope, send, failed(error, request.request_id, from_adapter=request.from_adapter))
    finally:
        client.end()


async def _answer(
    stream: CallerStream,
    frame: Frame,
    request: Forwarded,
    scope: Scope,
    client: _Client,
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
    """Deny the handshake with *answer*, whose body are *chunks* if they are given; return the status of the denial.

    A server without the extension for denials is told to close, which it does with 403.

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


async def _shake_hands(router: Router, request: Forwarded, client: _Client) -> Routed | None:
    """Return what answers the handshake; None if the client has left before."""
    routing = asyncio.get_running_loop().create_task(router.route(request, whole=False))
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
    """Give up the handshake, at whatever stage it is."""

    def close(routing: asyncio.Task[Routed]) -> None:
        if not routing.cancelled() and routing.exception() is None:
            routing.result()[0].cancel()

    routing.cancel()
    routing.add_done_callback(close)


class _Client(AsyncIterator[bytes | list[Segment]]):
    """The client's side: its messages, encoded for the stream, and what is to be sent to it.

    Attributes:
        send: The ASGI `send`.
        first: The first message after the handshake's; asked for at once, since the client may leave meanwhile.
    """

    def __init__(self, receive: Receive, send: Send, limit: int, hold: Hold | None) -> None:
        self.send = send
        self._hold = hold
        self.first: asyncio.Future[Message] = asyncio.ensure_future(receive())
        self._receive = receive
        self._limit = limit
        self._begun = self._ended = self._left = False
        self._stream: CallerStream | None = None
        self._patience: asyncio.TimerHandle | None = None

    def end(self) -> None:
        """Read nothing more."""
        self.first.cancel()
        if self._patience is not None:
            self._patience.cancel()

    # from the client

    async def __anext__(self) -> list[Segment]:
        """Return the segments of the client's next message; the last one is a close."""
        if self._ended:
            raise StopAsyncIteration
        message = await self._next()
        if message["type"] == "websocket.disconnect":
            return self._last(Close(message.get("code", websocket.NO_STATUS), message.get("reason") or ""))
        text = message.get("text")
        segments = websocket.encode(text if text is not None else message.get("bytes") or b"")
        if size_of(segments) <= self._limit + 1:
            return segments
        await self._close(Close(websocket.TOO_LONG, "message too big"))
        return self._last(Close(websocket.TOO_LONG, "message too big"))

    async def _next(self) -> Message:
        if self._begun:
            return await self._receive()
        self._begun = True
        message = await self.first
        self.first = _nothing()  # a future keeps its result
        return message

    def _last(self, close: Close) -> list[Segment]:
        self._ended = True
        self._leave()
        return websocket.encode(close)

    def _leave(self) -> None:
        """The client has left: user code is told by `__anext__`, and after a while by the end of the stream."""
        self._left = True
        if self._patience is None and self._stream is not None:
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(websocket.LEAVE_GRACE_S, self._stream.cancel)

    # to the client

    async def carry(self, stream: CallerStream, headers: HeaderList, request_id: str, logger: logging.Logger) -> None:
        """Accept with *headers*, then send what comes on *stream* until both sides have ended."""
        self._stream = stream
        subprotocol = next((value.decode("latin-1") for name, value in headers if name == SUBPROTOCOL), None)
        own = [pair for pair in headers if not pair[0].startswith(b"sec-websocket-")]
        await self._deliver({"type": "websocket.accept", "subprotocol": subprotocol, "headers": own})
        reader = MessageReader(stream, self._limit, self._hold)
        try:
            close = await self._send_all(reader)
        except MessageTooLong:
            stream.cancel()
            logger.error("request %s: the backend sent a message above the limit", request_id)
            close = Close(websocket.TOO_LONG, "message too big")
        except NoRoom:
            stream.cancel()  # now, since a client that does not read delays the close, and more would come meanwhile
            close = Close(websocket.TRY_LATER, "the server holds too much for others")
        except (Lost, Aborted, ServeBridgeError) as error:
            if not self._left:
                logger.warning("request %s: the WebSocket broke off: %s", request_id, error)
            retires = stream.connection.going_away
            close = Close(websocket.GOING_AWAY if retires else websocket.FAILED, f"request {request_id}")
        await self._close(close)

    async def _send_all(self, reader: MessageReader) -> Close:
        """Send the messages of user code; return how it ends."""
        while (message := await reader.next()) is not None:
            if isinstance(message, Close):
                return message
            key = "text" if isinstance(message, str) else "bytes"
            await self._deliver({"type": "websocket.send", key: message})
            del message  # a long one must not stay while the next is waited for
        return Close(websocket.NORMAL)

    async def _close(self, close: Close) -> None:
        code = websocket.sendable(close.code)
        await self._deliver({"type": "websocket.close", "code": code, "reason": close.reason})

    async def _deliver(self, message: Message) -> None:
        """Send *message*, unless the client has left; user code still has to come to its end then."""
        if self._left:
            return
        try:
            await self.send(message)
        except Exception as error:  # each server has its own for a client that has left
            _logger.debug("a WebSocket took no more: %r", error)
            self._leave()


def _is_disconnect(message: Message) -> bool:
    return bool(message["type"] == "websocket.disconnect")


def _nothing() -> asyncio.Future[Message]:
    """Return a future that is done and keeps nothing."""
    done: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
    done.cancel()
    return done
