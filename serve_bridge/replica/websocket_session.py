"""One WebSocket of a replica, from its handshake to its close.

Rule 1: user code gets Starlette's `WebSocket`; this module is its ASGI server.
Rule 2: a client that leaves does not cancel user code. User code is told, and may run for `LEAVE_GRACE_S` more.
Rule 3: a failure of user code is a 500 before the handshake is answered, and code 1011 after it. The reason goes to
        the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from enum import Enum, auto

from starlette.exceptions import WebSocketException
from starlette.types import ASGIApp, Scope
from starlette.websockets import WebSocketDisconnect

from serve_bridge.errors import failure_message
from serve_bridge.http.answers import fit_head
from serve_bridge.http.headers import SUBPROTOCOL, HeaderList
from serve_bridge.replica.failures import is_cancelled, send_failure
from serve_bridge.replica.response_sender import Message, ResponseSender
from serve_bridge.replica.websocket_handshake import deny
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.heads import HttpAnswer, HttpHead, encode_head
from serve_bridge.wire.replica_end import ReplicaStream
from serve_bridge.wire.websocket_messages import (
    BROKEN,
    FAILED,
    LEAVE_GRACE_S,
    NORMAL,
    SWITCHING,
    Close,
    MessageReader,
    MessageWriter,
    sendable,
)

_logger = logging.getLogger("serve_bridge.replica")


class _State(Enum):
    CONNECTING = auto()
    OPEN = auto()
    DENYING = auto()
    CLOSED = auto()


class WebSocketSession:
    """The server's side of one WebSocket."""

    def __init__(self, head: HttpHead, stream: ReplicaStream) -> None:
        self._head = head
        self._stream = stream
        self._state = _State.CONNECTING
        self._announced = False
        self._closed: Close | None = None
        self._reader = MessageReader(stream)
        self._writer = MessageWriter(stream)
        self._denial = ResponseSender(stream)
        self._task = asyncio.current_task()
        self._patience: asyncio.TimerHandle | None = None

    async def serve(self, app: ASGIApp, scope: Scope) -> None:
        """Run *app*, then close the WebSocket if *app* has not."""
        try:
            await app(scope, self._receive, self._send)
        except asyncio.CancelledError:
            if is_cancelled():
                self._stream.abort()
                return
            await self._fail(RuntimeError("user code raised CancelledError"))
        except (WebSocketDisconnect, ClientDisconnected):  # user code often reads, or sends, until the client leaves
            await self._end(Close(NORMAL))
        except BaseException as error:
            await self._fail(error)
        else:
            await self._end(Close(NORMAL))

    def go_away(self) -> None:
        """Abort the stream if the WebSocket is open. The caller knows that the replica drains, and closes with 1001."""
        if self._state is _State.OPEN:
            self._stream.abort()
            self._cancel()

    def end(self) -> None:
        """Cancel the timer; called when user code has ended."""
        if self._patience is not None:
            self._patience.cancel()

    async def _fail(self, error: BaseException) -> None:
        if isinstance(error, WebSocketException):  # Starlette's way to close with a code
            await self._end(Close(sendable(error.code), error.reason))
        elif self._state is _State.CONNECTING:
            self._state = _State.CLOSED
            send_failure(self._stream, self._head, error)
        else:
            # The caller reports a failed handshake, but later sees only the code of the close. So the replica logs.
            _logger.error(failure_message(self._head.backend), self._head.request_id, exc_info=error)
            await self._end(Close(FAILED, f"request {self._head.request_id}"))

    async def _end(self, close: Close) -> None:
        """Close with *close*, unless the WebSocket is closed already."""
        if self._state is _State.CONNECTING:
            self._refuse()
        elif self._state is _State.OPEN and not self._stream.body_ended:
            with contextlib.suppress(OSError):  # the client has just left
                await self._close(close)

    # ASGI

    async def _receive(self) -> Message:
        if not self._announced:
            self._announced = True
            return {"type": "websocket.connect"}
        if self._closed is None:
            try:
                message = await self._reader.next()
            except Lost:
                message = None
            if isinstance(message, str):
                return {"type": "websocket.receive", "text": message}
            if isinstance(message, bytes):
                return {"type": "websocket.receive", "bytes": message}
            self._closed = message or Close(BROKEN)
        return {"type": "websocket.disconnect", "code": self._closed.code, "reason": self._closed.reason}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if self._state is _State.OPEN and kind == "websocket.send":
            text = message.get("text")
            await self._write(text if text is not None else bytes(message.get("bytes") or b""))
        elif self._state is _State.OPEN and kind == "websocket.close":
            await self._close(Close(sendable(message.get("code", NORMAL)), message.get("reason") or ""))
        elif self._state is _State.CONNECTING and kind == "websocket.accept":
            self._accept(message)
        elif self._state is _State.CONNECTING and kind == "websocket.close":
            self._refuse()
        elif self._state in (_State.CONNECTING, _State.DENYING) and kind.startswith("websocket.http.response."):
            self._state = _State.DENYING
            try:
                await self._denial({**message, "type": kind.removeprefix("websocket.")})
            except Lost:  # or the status has no body, and its answer has ended
                raise ClientDisconnected from None
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r} on a WebSocket that is {self._state.name.lower()}")

    def _accept(self, message: Message) -> None:
        headers: HeaderList = [(bytes(name), bytes(value)) for name, value in message.get("headers") or ()]
        subprotocol = message.get("subprotocol")
        if subprotocol is not None:
            headers.append((SUBPROTOCOL, subprotocol.encode("latin-1")))
        _, headers = fit_head(200, headers)
        self._state = _State.OPEN
        self._stream.on_cancel = self._caller_gone
        self._stream.respond(encode_head(HttpAnswer(SWITCHING, headers, b"")), end=False)
        self._stream.accept_body()

    def _refuse(self) -> None:
        self._state = _State.CLOSED
        deny(self._stream, self._head, 403, "Forbidden", None)

    async def _close(self, close: Close) -> None:
        self._closed = close
        await self._write(close, end=True)
        self._state = _State.CLOSED

    async def _write(self, message: str | bytes | Close, *, end: bool = False) -> None:
        if self._stream.body_ended:
            raise ClientDisconnected
        try:
            await self._writer.send(message, end=end)
        except Lost:
            raise ClientDisconnected from None

    def _caller_gone(self) -> None:
        self._patience = asyncio.get_running_loop().call_later(LEAVE_GRACE_S, self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


class ClientDisconnected(OSError):
    """The client has left. Since ASGI 2.4, the `send` of a server raises an OSError then.

    Starlette turns it into a `ClientDisconnect` or a `WebSocketDisconnect`.
    """
