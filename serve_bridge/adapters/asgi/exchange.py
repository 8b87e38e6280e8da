"""One HTTP exchange over ASGI: the client's body comes in, the answer goes out.

Rule 1: a client that leaves takes its work along; nobody gets an answer, and nothing is logged as an error.
Rule 2: an answer is whole or visibly broken: one start, its body in order, an end only where there was one.
Rule 3: a failure is raised where a Starlette application will handle it, else it is answered with a problem.
"""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Mapping
from contextlib import aclosing, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from serve_bridge.adapters.bridge.asgi_scope import readable
from serve_bridge.adapters.bridge.forwarded_route import ForwardedRoute
from serve_bridge.adapters.bridge.outcome import Outcome, refused, report
from serve_bridge.errors import ConfigError
from serve_bridge.forwarding.refusals import Refused
from serve_bridge.http.body_length import body_length
from serve_bridge.http.headers import HeaderList

if TYPE_CHECKING:
    from serve_bridge.adapters.bridge.bridge import Bridge

PATIENCE_S: Final = 0.05
"""How long an answer may take before it is worth to look whether its client is still there."""

_HANDLERS: Final = "starlette.exception_handlers"
_REPORTED: Final = 500
"""From this status on, error trackers report an `HTTPException` that a Starlette application answers."""
_RAISED: Final = frozenset({"x-request-id", "x-serve-executed", "retry-after", "allow"})


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


async def exchange(
    bridge: Bridge,
    route: ForwardedRoute,
    scope: Scope,
    path_params: Mapping[str, Any],
    receive: Receive,
    send: Send,
    *,
    handled: bool = True,
) -> None:
    """Forward the request of *scope* and send what comes back.

    Args:
        bridge: Leads to the instance.
        route: Of the request.
        scope: Of an HTTP request.
        path_params: Of the request, converted.
        receive: Of the request; nothing of it was taken.
        send: Of the request.
        handled: Whether errors may be raised: the caller has no application inside.

    Raises:
        HTTPException: The request failed inside an application, whose own handlers shape the answer.
    """
    scope = readable(scope)
    requester = Requester(scope, receive)
    web_request = Request(scope, receive) if route.context is not None else None
    outcome = await ask(bridge, route, scope, path_params, requester, web_request, requester)
    if outcome.error is not None:
        await fail(outcome, scope, send, handled=handled)
    else:
        await send_answer(outcome.status, outcome.headers, outcome.body, scope, send, requester)


async def ask(
    bridge: Bridge,
    route: ForwardedRoute,
    scope: Scope,
    path_params: Mapping[str, Any],
    body: bytes | Receive,
    web_request: Any,
    requester: Requester,
) -> Outcome:
    """Do as `Bridge.ask_async`, until *requester* leaves."""
    try:
        with requester:
            channel = bridge.channel_at(requester.loop)
            return await bridge.ask_async(route, scope, path_params, body, web_request, channel)
    except ClientLeft as left:
        return refused(left)


async def fail(outcome: Outcome, scope: Scope, send: Send, *, handled: bool = True) -> None:
    """Raise what went wrong where an application handles it, else send it.

    Raises:
        HTTPException: It does.
    """
    if handled and _HANDLERS in scope:
        raise http_exception(outcome) from outcome.error
    report(outcome)
    with suppress(OSError):  # the client has left
        await send({"type": "http.response.start", "status": outcome.status, "headers": outcome.headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else outcome.body})


def http_exception(outcome: Outcome) -> HTTPException:
    """Return the exception that stands for a failed *outcome*, and log it unless the framework will."""
    report(outcome, raised=outcome.status >= _REPORTED)
    headers = {name: value for name, value in outcome.text_headers if name in _RAISED}
    # With a text of its own: Starlette before 1.7 raises ValueError for a status that it has no text for, such as 499.
    return HTTPException(outcome.status, http.client.responses.get(outcome.status, ""), headers)


async def send_answer(
    status: int, headers: HeaderList, body: Any, scope: Scope, send: Send, requester: Requester
) -> None:
    """Send an answer of user code; it ends early if the client leaves, or with an exception if it broke off.

    Args:
        status: Its status.
        headers: Its headers.
        body: All of its body, or what iterates that; closed in every case.
        scope: Of the request.
        send: Of the request.
        requester: Who is watched meanwhile.

    Raises:
        AnswerBroken: The backend has not finished it.
    """
    start = {"type": "http.response.start", "status": status, "headers": headers}
    has_no_body = scope["method"] == "HEAD"
    if isinstance(body, bytes):
        await send(start)
        await send({"type": "http.response.body", "body": b"" if has_no_body else body})
        return
    with suppress(ClientLeft), requester:
        async with aclosing(body) as chunks:
            await send(start)
            if not has_no_body:
                async for chunk in chunks:
                    await _deliver({"type": "http.response.body", "body": chunk, "more_body": True}, send)
        await _deliver({"type": "http.response.body", "body": b""}, send)


async def _deliver(message: Message, send: Send) -> None:
    try:
        await send(message)
    except OSError as error:  # what a server raises whose client has left (ASGI 2.4)
        raise ClientLeft from error
