"""An ASGI application in a replica: its lifespan, its requests and its WebSockets.

Rule 1: under the application this module does what an ASGI server does (ASGI 3.0, spec version 2.4).
Rule 2: what an application does against the protocol is an error where it does it, and never half an answer: 500, or an
        answer that is broken off.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from starlette.types import ASGIApp, Message, Scope

from serve_bridge.http.headers import TRAILERS
from serve_bridge.replica.http_requests import Receiver, end_failed, mount_point, scope_of
from serve_bridge.replica.http_responses import ResponseSender
from serve_bridge.replica.websockets import ClientDisconnected, WebSockets, websocket_scope
from serve_bridge.user_code.method import Method
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.heads import HttpHead
from serve_bridge.wire.replica_end import ReplicaStream

LAST_WORDS_S: Final = 1.0
"""Seconds in which an application that has said that it cannot start, or end, may raise why."""

_START, _BODY = "http.response.start", "http.response.body"

_logger = logging.getLogger("serve_bridge.replica")


class AsgiService:
    """Answers with one ASGI application."""

    def __init__(self, app: ASGIApp, websockets: WebSockets) -> None:
        self._app = app
        self._websockets = websockets
        self._lifespan = Lifespan(app)

    async def begin(self) -> None:
        """Let the application start.

        Raises:
            BaseException: What it fails with.
        """
        await self._lifespan.startup()

    async def end(self, timeout_s: float) -> None:
        """Let the application end, within *timeout_s*."""
        await self._lifespan.shutdown(timeout_s)

    def close(self) -> None:
        """Drop what is left of it."""
        self._lifespan.close()

    async def answer_http(self, method: Method, head: HttpHead, stream: ReplicaStream) -> None:
        """Let the application answer a request."""
        scope = self._scope(scope_of(head), head)
        scope["type"] = "http"
        scope["method"] = head.method
        sender = _Sender(head, stream)
        try:
            result: Any = await self._app(scope, Receiver(head, stream), sender)  # type: ignore[func-returns-value]  # it may return one against its type
            sender.check_ended(result)
        except BaseException as error:  # what an application makes of a client that has left is no failure
            end_failed(stream, head, error, left=sender.has_left())

    async def answer_websocket(self, method: Method, head: HttpHead, stream: ReplicaStream) -> None:
        """Let the application serve a WebSocket."""
        await self._websockets.serve(self._app, self._scope(websocket_scope(head), head), head, stream)

    def _scope(self, scope: dict[str, Any], head: HttpHead) -> dict[str, Any]:
        root_path = mount_point(head)
        if root_path or head.root_path is not None:
            scope["root_path"] = root_path
        scope["state"] = {**self._lifespan.state, **scope["state"]}
        return scope


class _Sender:
    """The ASGI `send` of one request."""

    __slots__ = ("_expected", "_has_trailers", "_left", "_send", "_stream")

    def __init__(self, head: HttpHead, stream: ReplicaStream) -> None:
        self._stream = stream
        self._send = ResponseSender(stream, has_no_body=head.method == "HEAD", takes_trailers=head.trailers)
        self._has_trailers = False
        self._expected: str | None = _START
        self._left = False

    async def __call__(self, message: Message) -> None:
        """Take one message.

        Raises:
            OSError: The client has left.
            RuntimeError: The message must not come now.
        """
        if self._expected == _BODY and self._send.passes(message):
            return
        kind = message["type"]
        if kind != self._expected:
            due = f"{self._expected!r} is due" if self._expected else "the answer is complete"
            raise RuntimeError(f"unexpected ASGI message {kind!r}: {due}")
        try:
            await self._send(message)
        except Lost:
            self._left = True
            raise ClientDisconnected("the client has left") from None
        if kind == _START:
            self._expected = _BODY
            self._has_trailers = message.get("trailers", False)
        elif kind == _BODY and not message.get("more_body", False):
            self._expected = TRAILERS if self._has_trailers else None
        elif kind == TRAILERS and not message.get("more_trailers", False):
            self._expected = None

    def has_left(self) -> bool:
        """Return whether the client has left before it had its answer, or the application was told so."""
        return self._left or (self._expected is not None and not self._stream.may_send())

    def check_ended(self, result: object) -> None:
        """Check what the application has done, now that it returned *result*.

        Raises:
            RuntimeError: It has not answered, or not to the end.
        """
        if result is not None:
            raise RuntimeError(f"the ASGI application returned {type(result).__name__} where None is expected")
        if self._expected is not None and self._stream.may_send():
            raise RuntimeError(f"the ASGI application returned without {self._expected!r}")


class Lifespan:
    """The lifespan of one application in one replica.

    Attributes:
        state: What the application has put there; each request has a copy.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._ending = asyncio.Event()
        self._announced = False
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._task: asyncio.Task[None] | None = None

    async def startup(self) -> None:
        """Return once the application is ready; one that knows no lifespan is.

        Raises:
            BaseException: It cannot start: what it raised, else a RuntimeError with what it says.
        """
        loop = asyncio.get_running_loop()
        self._answers = {"startup": loop.create_future(), "shutdown": loop.create_future()}
        self._task = loop.create_task(self._run())
        await _first(self._task, self._answers["startup"])
        if not self._answers["startup"].done():
            _logger.debug("the application knows no lifespan", exc_info=self._raised())
            return
        reason = self._answers["startup"].result()
        if reason is not None:
            await asyncio.wait({self._task}, timeout=LAST_WORDS_S)
            raised = self._raised()
            self.close()
            raise raised or RuntimeError(f"the application's startup failed: {reason}")

    async def shutdown(self, timeout_s: float) -> None:
        """Tell the application to end and wait until it has, *timeout_s* at most."""
        task = self._task
        if task is None or task.done():
            return
        self._ending.set()
        ended = self._answers["shutdown"]
        await _first(task, ended, timeout_s)
        reason = ended.result() if ended.done() else "it did not come to its end"
        if reason is not None:
            await asyncio.wait({task}, timeout=LAST_WORDS_S)
            _logger.error("the application's shutdown failed: %s", reason, exc_info=self._raised())

    def close(self) -> None:
        """Cancel what is left of it."""
        if self._task is not None:
            self._task.cancel()

    def _raised(self) -> BaseException | None:
        task = self._task
        return task.exception() if task is not None and task.done() and not task.cancelled() else None

    async def _run(self) -> None:
        scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._app(scope, self._receive, self._send)
        except (KeyboardInterrupt, SystemExit) as error:  # these would end the loop
            raise RuntimeError(f"the application raised {type(error).__name__}") from error

    async def _receive(self) -> Message:
        if not self._announced:
            self._announced = True
            return {"type": "lifespan.startup"}
        await self._ending.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        protocol, phase, outcome = message["type"].split(".")
        if protocol != "lifespan":
            raise RuntimeError(f"unexpected ASGI message {message['type']!r} in a lifespan")
        answer = self._answers[phase]
        if not answer.done():
            answer.set_result(None if outcome == "complete" else message.get("message") or "it does not say why")


async def _first(task: asyncio.Future[Any], answer: asyncio.Future[Any], timeout_s: float | None = None) -> None:
    await asyncio.wait({task, answer}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
