"""The client of one request over ASGI: its body, and whether it is still there.

Rule 1: the work for a client that leaves is cancelled; that is not logged as an error.
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
"""How long an answer may take before it is worth to look whether its client is still there."""


class ClientLeft(Refused):
    """The client has left before it had its answer; the status is for the logs."""

    http_status = 499

    def __init__(self) -> None:
        super().__init__("the client left")


class Requester:
    """The client of one exchange; called, it is the `receive` of its body.

    As a context manager it bounds what is done for the client, and cancels that when the client leaves. It may be
    entered again for the next part.

    Attributes:
        loop: The running loop.

    Raises:
        RuntimeError: None of asyncio's runs.
    """

    __slots__ = (
        *("_begun", "_cancelled", "_due", "_receive", "_scope", "_task", "_timer", "_watch", "_whole"),
        "loop",
    )

    def __init__(self, scope: Scope, receive: Receive) -> None:
        """Take the exchange's scope and `receive`."""
        self.loop = running_loop()
        self._scope = scope
        self._receive = receive
        self._begun = self._whole = self._due = self._cancelled = False
        self._task: asyncio.Task[Any] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def has_whole_body(self) -> None:
        """Somebody else has received the body; nothing but the client's leaving is to come."""
        self._whole = True

    async def __call__(self) -> Message:
        """Return the next piece of the body.

        Raises:
            ClientLeft: The client will not send it.
            ConfigError: The application has read the body before, and not kept it.
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
        """Begin to look after the client."""
        loop = self.loop
        self._task = asyncio.current_task(loop)
        self._due = self._cancelled = False
        self._timer = loop.call_later(PATIENCE_S, self._look)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Stop looking.

        Raises:
            ClientLeft: That is what has ended it.
        """
        assert self._timer is not None
        self._timer.cancel()
        self._due = False
        if self._watch is None:
            return
        self._watch.cancel()
        self._watch = None
        if self._cancelled and self._task is not None:
            others = self._task.uncancel()
            if not others and kind is not None and issubclass(kind, asyncio.CancelledError):
                raise ClientLeft from None

    def _look(self) -> None:
        """The answer takes its time: watch the client, as soon as nobody else reads what it sends."""
        if self._whole or not (self._begun or body_length(self._scope) != 0):
            self._start_watch()
        else:
            self._due = True

    def _start_watch(self) -> None:
        self._watch = self.loop.create_task(self._wait_until_gone())

    async def _wait_until_gone(self) -> None:
        with suppress(Exception):  # of a middleware's own `receive`; then it is not known
            # One message may still be the empty body. A second one is of a middleware that repeats itself for ever.
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
    """Return the error for a body that the application has read before, and not kept."""
    return ConfigError(
        "the request's body was read before it could be forwarded; a middleware or dependency that needs it "
        "reads it with `await request.body()`, which keeps it"
    )


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the running loop.

    Raises:
        RuntimeError: None of asyncio's runs.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "serve_bridge needs a loop of asyncio, and none runs here; is this application served by trio?"
        ) from None
