"""The client's end of a forwarded WebSocket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from starlette.types import Message, Receive, Send

from serve_bridge.errors import ServeBridgeError
from serve_bridge.http.headers import SUBPROTOCOL, HeaderList
from serve_bridge.wire import websocket_messages as websocket
from serve_bridge.wire.caller_end import CallerStream
from serve_bridge.wire.endings import Aborted, Lost
from serve_bridge.wire.segments import Segment, size_of
from serve_bridge.wire.websocket_messages import Close, Hold, MessageReader, MessageTooLong, NoRoom

_logger = logging.getLogger("serve_bridge.forwarding")


class WebSocketClient(AsyncIterator[bytes | list[Segment]]):
    """The client of a WebSocket. Its messages are iterated as the body of the request; `carry` sends the answer's.

    Attributes:
        send: The ASGI `send`.
        first: The first message after the handshake. It is received from the start, because the client may leave
            during the handshake.
    """

    def __init__(self, receive: Receive, send: Send, limit: int, hold: Hold | None) -> None:
        """Speak to the client by *receive* and *send*; see `forward_websocket` for *limit* and *hold*."""
        self.send = send
        self.first: asyncio.Future[Message] = asyncio.ensure_future(receive())
        self._receive = receive
        self._limit = limit
        self._hold = hold
        self._begun = self._ended = self._left = False
        self._stream: CallerStream | None = None
        self._grace: asyncio.TimerHandle | None = None

    def end(self) -> None:
        """Stop reading from the client."""
        self.first.cancel()
        if self._grace is not None:
            self._grace.cancel()

    # from the client

    async def __anext__(self) -> list[Segment]:
        """Return the next message of the client as segments; the last one is a close."""
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
        self.first = _empty_future()  # a future keeps its result, and the message may be long
        return message

    def _last(self, close: Close) -> list[Segment]:
        self._ended = True
        self._leave()
        return websocket.encode(close)

    def _leave(self) -> None:
        """Handle that the client has left. User code gets the close, and `LEAVE_GRACE_S` to end by itself."""
        self._left = True
        if self._grace is None and self._stream is not None:
            loop = asyncio.get_running_loop()
            self._grace = loop.call_later(websocket.LEAVE_GRACE_S, self._stream.cancel)

    # to the client

    async def carry(self, stream: CallerStream, headers: HeaderList, request_id: str, logger: logging.Logger) -> None:
        """Accept with *headers*, then send the messages of *stream* to the client until user code has ended."""
        self._stream = stream
        subprotocol = next((value.decode("latin-1") for name, value in headers if name == SUBPROTOCOL), None)
        own = [pair for pair in headers if not pair[0].startswith(b"sec-websocket-")]
        await self._send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": own})
        reader = MessageReader(stream, self._limit, self._hold)
        try:
            close = await self._send_all(reader)
        except MessageTooLong:
            stream.cancel()
            logger.error("request %s: the backend sent a message above the limit", request_id)
            close = Close(websocket.TOO_LONG, "message too big")
        except NoRoom:
            stream.cancel()  # at once: a slow client delays the close, and more bytes would arrive until then
            close = Close(websocket.TRY_LATER, "the server has reached its memory limit")
        except (Lost, Aborted, ServeBridgeError) as error:
            if not self._left:
                logger.warning("request %s: the WebSocket broke off: %s", request_id, error)
            retires = stream.connection.going_away
            close = Close(websocket.GOING_AWAY if retires else websocket.FAILED, f"request {request_id}")
        await self._close(close)

    async def _send_all(self, reader: MessageReader) -> Close:
        """Send the messages of user code; return its close."""
        while (message := await reader.next()) is not None:
            if isinstance(message, Close):
                return message
            key = "text" if isinstance(message, str) else "bytes"
            await self._send({"type": "websocket.send", key: message})
            del message  # a long message must not stay in memory during the wait for the next one
        return Close(websocket.NORMAL)

    async def _close(self, close: Close) -> None:
        code = websocket.sendable(close.code)
        await self._send({"type": "websocket.close", "code": code, "reason": close.reason})

    async def _send(self, message: Message) -> None:
        """Send *message*, unless the client has left."""
        if self._left:
            return
        try:
            await self.send(message)
        except Exception as error:  # each server raises an error of its own if the client has left
            _logger.debug("a WebSocket accepts no more messages: %r", error)
            self._leave()


def _empty_future() -> asyncio.Future[Message]:
    """Return a finished future without a result."""
    done: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
    done.cancel()
    return done
