"""The client of one request over ASGI: it sends the body, and it may leave.

Rule 1: when the client leaves, its request is cancelled. The log has no error for it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Any, Final

from starlette.types import Message, Receive, Scope

from serve_bridge.errors import ConfigError
from serve_bridge.forwarding.refusals import Refused
from serve_bridge.http.body_length import body_length

PATIENCE_S: Final = 0.05
"""Seconds without an answer after which the client is watched. Watching costs a task, and most answers come sooner."""


class ClientLeft(Refused):
    """The client left before it had its answer. The status appears in logs only."""

    http_status = 499

    def __init__(self) -> None:
        super().__init__("the client left")


class Requester:
    """The client of one request. A call of it is the `receive` of the body.

    As a context manager it surrounds work for the client, and cancels the work when the client leaves. It may be
    entered several times, for one piece of work after another.

    Attributes:
        loop: The running loop.

    Raises:
        RuntimeError: No loop of asyncio is running.
    """

    __slots__ = (
        *("_begun", "_cancelled", "_due", "_receive", "_scope", "_task", "_timer", "_watch", "_whole"),
        "loop",
    )

    def __init__(self, scope: Scope, receive: Receive) -> None:
        """Keep the scope and the `receive` of the request."""
        self.loop: asyncio.AbstractEventLoop = running_loop()
        self._scope = scope
        self._receive = receive
        self._begun = self._whole = self._due = self._cancelled = False
        self._task: asyncio.Task[Any] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def has_whole_body(self) -> None:
        """Note that other code has received the body, so the next message can only be a disconnect."""
        self._whole = True

    async def __call__(self) -> Message:
        """Return the next piece of the body.

        Raises:
            ClientLeft: The client left before the end of the body.
            ConfigError: The application has read the body before and not kept it.
        """
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        if not message.get("more_body", False):
            if not self._begun and not message.get("body"):
                self._check_not_consumed()
            self._whole = True
            if self._due:
                self._start_watch()
        self._begun = True
        return message

    def __enter__(self) -> Requester:
        """Begin to watch the client."""
        loop = self.loop
        self._task = asyncio.current_task(loop)
        self._due = self._cancelled = False
        self._timer = loop.call_later(PATIENCE_S, self._look)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Stop watching the client.

        Raises:
            ClientLeft: The work was cancelled because the client left.
        """
        assert self._timer is not None
        self._timer.cancel()
        self._due = False
        if self._watch is None:
            return
        self._watch.cancel()
        self._watch = None
        if self._cancelled and self._task is not None:
            other_cancellations = self._task.uncancel()
            if not other_cancellations and kind is not None and issubclass(kind, asyncio.CancelledError):
                raise ClientLeft from None

    def _look(self) -> None:
        """Watch the client now, or as soon as its whole body is received: only one task may call `receive`."""
        if self._whole or not (self._begun or body_length(self._scope) != 0):
            self._start_watch()
        else:
            self._due = True

    def _start_watch(self) -> None:
        self._watch = self.loop.create_task(self._wait_until_gone())

    async def _wait_until_gone(self) -> None:
        with suppress(Exception):  # the `receive` of a middleware may fail; then the client counts as connected
            # The first message may still be the empty body. If the second is not a disconnect, a middleware repeats
            # the body for ever.
            for _ in range(2):
                if (await self._receive())["type"] == "http.disconnect":
                    self._cancelled = True
                    if self._task is not None:
                        self._task.cancel()
                    return

    def _check_not_consumed(self) -> None:
        if body_length(self._scope):
            raise consumed()


def consumed() -> ConfigError:
    """Return the error for a body that the application has read before and not kept."""
    return ConfigError(
        "the request's body was read before it could be forwarded; a middleware or dependency that needs it "
        "reads it with `await request.body()`, which keeps it"
    )


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the running loop.

    Raises:
        RuntimeError: No loop of asyncio is running.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "serve_bridge needs a loop of asyncio, and none runs here; is this application served by trio?"
        ) from None
