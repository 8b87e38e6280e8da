"""The WebSockets of a replica: each is served by one `async def` of user code, from its handshake to its close.

Rule 1: user code has Starlette's `WebSocket`; under it this module does what an ASGI server does.
Rule 2: a client that leaves does not cancel: user code is told, and has `LEAVE_GRACE_S` to come to its end.
Rule 3: a failure of user code is a 500 before the handshake is answered, and code 1011 after it; why is for the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from enum import Enum, auto
from typing import Any, Final

from starlette.exceptions import WebSocketException
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from serve_bridge.context import lift_deadline
from serve_bridge.errors import failure_message
from serve_bridge.http.answers import Answer, fit_head, problem
from serve_bridge.http.headers import SUBPROTOCOL, HeaderList
from serve_bridge.replica.executor import Executor
from serve_bridge.replica.http_requests import is_cancelled, scope_of, send_failure
from serve_bridge.replica.http_responses import Message, ResponseSender
from serve_bridge.user_code.method import Method
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

_HANDSHAKE: Final = ((b"connection", b"Upgrade"), (b"upgrade", b"websocket"))
"""Headers that an HTTP/1.1 server leaves in the scope of a WebSocket. They are hop-by-hop, so no head carries them."""

_logger = logging.getLogger("serve_bridge.replica")


class WebSockets:
    """The WebSockets that a replica serves at the moment."""

    def __init__(self) -> None:
        self._served: set[_ServedWebSocket] = set()

    def __len__(self) -> int:
        return len(self._served)

    async def answer(self, executor: Executor, method: Method, head: HttpHead, stream: ReplicaStream) -> None:
        """Let *method* serve the WebSocket that *head* asks for, until it is closed."""
        if not method.is_async or method.is_generator or method.batched or method.takes == "nothing":
            deny_websocket(head, stream)
            return

        async def converse(scope: Scope, receive: Receive, send: Send) -> None:
            await executor.run(method, *method.arguments(WebSocket(scope, receive, send), {}))

        await self.serve(converse, websocket_scope(head), head, stream)

    async def serve(self, app: ASGIApp, scope: Scope, head: HttpHead, stream: ReplicaStream) -> None:
        """Let *app* serve the WebSocket that *head* asks for, and *scope* describes, until it is closed."""
        # The time the caller gave is for the handshake, and the caller ends one that takes longer.
        lift_deadline()
        served = _ServedWebSocket(head, stream)
        self._served.add(served)
        try:
            await served.serve(app, scope)
        finally:
            served.end()
            self._served.discard(served)

    def go_away(self) -> None:
        """End those that are open: their clients see that the server is going away."""
        for served in list(self._served):
            served.go_away()


class _State(Enum):
    CONNECTING = auto()
    OPEN = auto()
    DENYING = auto()
    CLOSED = auto()


class _ServedWebSocket:
    """One WebSocket: what is under the `WebSocket` that user code has."""

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
        """Run *app* and see to it that the WebSocket has an end."""
        try:
            await app(scope, self._receive, self._send)
        except asyncio.CancelledError:
            if is_cancelled():
                self._stream.abort()
                return
            await self._fail(RuntimeError("user code raised CancelledError"))
        except WebSocketDisconnect:  # the usual end of user code that reads until the client leaves
            await self._end(Close(NORMAL))
        except BaseException as error:
            await self._fail(error)
        else:
            await self._end(Close(NORMAL))

    def go_away(self) -> None:
        """End it now if it is open; of a replica that drains the caller knows what that means."""
        if self._state is _State.OPEN:
            self._stream.abort()
            self._cancel()

    def end(self) -> None:
        """User code has come to its end."""
        if self._patience is not None:
            self._patience.cancel()

    async def _fail(self, error: BaseException) -> None:
        if isinstance(error, WebSocketException):  # Starlette's way to close with a code
            await self._end(Close(sendable(error.code), error.reason))
        elif self._state is _State.CONNECTING:
            self._state = _State.CLOSED
            send_failure(self._stream, self._head, error)
        else:
            # Unlike a failed handshake, this is not reported by the caller, which sees only how the WebSocket closes.
            _logger.error(failure_message(self._head.backend), self._head.request_id, exc_info=error)
            await self._end(Close(FAILED, f"request {self._head.request_id}"))

    async def _end(self, close: Close) -> None:
        """Close with *close*, unless user code has ended it already."""
        if self._state is _State.CONNECTING:
            self._refuse()
        elif self._state is _State.OPEN and not self._stream.body_ended:
            with contextlib.suppress(OSError):  # the client has left meanwhile
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
            await self._denial({**message, "type": kind.removeprefix("websocket.")})
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
        _deny(self._stream, self._head, 403, "Forbidden", None)

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
    """The client has left: what a server's `send` raises since ASGI 2.4.

    Starlette makes a `ClientDisconnect` or `WebSocketDisconnect` of it.
    """


def deny_websocket(head: HttpHead, stream: ReplicaStream) -> None:
    """Answer a handshake at what takes no WebSocket."""
    _deny(stream, head, 501, "Not Implemented", "this endpoint takes no WebSocket")


def websocket_scope(head: HttpHead) -> dict[str, Any]:
    """Return the ASGI scope of the WebSocket that *head* asks for."""
    return {
        **scope_of(head),
        "type": "websocket",
        "headers": [*head.headers, *_HANDSHAKE],
        "subprotocols": list(head.subprotocols or ()),
        "extensions": {"websocket.http.response": {}},
    }


def _deny(stream: ReplicaStream, head: HttpHead, status: int, title: str, detail: str | None) -> None:
    answer: Answer = problem(status, title, detail, head.request_id)
    stream.respond(encode_head(HttpAnswer(answer.status, answer.headers, answer.body)), end=True)
