"""One app's way to an instance: what all adapters share.

Rule 1: nothing is read, connected or started before the first use; a forked child starts afresh.
Rule 2: it comes back by itself: an instance that was started anew is found where the old one was.
Rule 3: whatever happens becomes an `Outcome`; only the adapter knows what its framework makes of it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from random import getrandbits
from typing import Any, Final
from uuid import UUID

import msgspec
from starlette.types import Receive, Scope, Send

from serve_bridge.adapters.blocking import Readable, forward_blocking
from serve_bridge.adapters.route import ForwardedRoute
from serve_bridge.api import client_of, find_instance, start_local
from serve_bridge.client import Client
from serve_bridge.errors import BackendError, ConfigError, NotConnected, ServeBridgeError, shown
from serve_bridge.forwarded_websocket import deny, forward_websocket
from serve_bridge.forwarding import BodyTooLarge, Forwarded, Refused, Reply, failed, forward
from serve_bridge.handle import Handle
from serve_bridge.lane import Lane
from serve_bridge.messages import HeaderList, RawPathParams
from serve_bridge.results import Answer

SYNC_TIMEOUT_S: Final = 25.0
"""Default of a route in a worker that a server such as gunicorn kills when one request takes 30 s."""
ASYNC_TIMEOUT_S: Final = 60.0
LOOK_AGAIN_S: Final = 0.5
"""How often an app asks itself whether its instance has gone, and if it has, looks for a new one."""

_CREDENTIALS = frozenset({b"authorization", b"cookie"})
_logger = logging.getLogger("serve_bridge.adapters")
# A prefix per process would be shared by forked workers. `random` seeds itself anew after a fork, without a system call
# for each request.
_request_ids: Iterator[str] = iter(lambda: f"{getrandbits(64):016x}", "")


class Outcome(msgspec.Struct, frozen=True):
    """What became of a forwarded request.

    Attributes:
        status: The status to answer with.
        headers: The headers to answer with, lower-case.
        body: The whole body, or its chunks: blocking from `Bridge.ask`, asynchronous from `Bridge.ask_async`.
        error: Why there is no answer of user code, or the `BackendError` that stands for what user code raised; the
            body is then a problem (RFC 9457). None if all went well.
    """

    status: int
    headers: HeaderList
    body: Any
    error: Exception | None = None

    @classmethod
    def of(cls, answer: Answer, error: Exception | None = None) -> Outcome:
        """Return the outcome that has *answer*."""
        return cls(answer.status, answer.headers, answer.body, error)

    @property
    def request_id(self) -> str:
        """The id under which the log knows the request."""
        return next((value.decode() for name, value in self.headers if name == b"x-request-id"), "")

    @property
    def text_headers(self) -> list[tuple[str, str]]:
        """The headers as text."""
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self.headers]


class Bridge:
    """One app's link to an instance."""

    def __init__(
        self,
        address: str | None = None,
        *,
        name: str = "default",
        runtime: str | None = None,
        timeout_s: float = ASYNC_TIMEOUT_S,
        declared: Callable[[], Iterable[Any]] = tuple,
    ) -> None:
        """Take where the instance is, or how to start one; used on the first request.

        Args:
            address: What `serve_bridge.connect` takes.
            name: Which of this user's instances, without an address.
            runtime: None joins a running instance. "local" starts one inside this process, for development and
                tests; it ends with the process, or by `close`.
            timeout_s: Seconds a request may take where its route says nothing else.
            declared: Returns what `serve_bridge.deploy` takes; deployed to an instance that is started here.

        Raises:
            ConfigError: *runtime* is neither.
        """
        if runtime not in (None, "local"):
            raise ConfigError(f"runtime must be None, to join a running instance, or 'local', got {shown(runtime)}")
        self.timeout_s = timeout_s
        self._address = address
        self._name = name
        self._local = runtime == "local"
        self._declared = declared
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._pid = 0
        self._next_look = 0.0

    @property
    def is_local(self) -> bool:
        """Whether its instance is inside this process."""
        return self._local

    def client(self) -> Client:
        """Return the app's client.

        Raises:
            NotConnected: No instance is running where it was looked for; the next call looks again.
            ConfigError: The address is none; or this process has no real sockets and threads.
        """
        client = self._client
        if client is not None and not self._is_doubtful(client):
            return client
        return self._find()

    async def aclient(self) -> Client:
        """Same as `client`, for a running loop, which looking for an instance must not hold up."""
        client = self._client
        if client is not None and not self._is_doubtful(client):
            return client
        return await asyncio.to_thread(self._find)

    def lane_at(self, loop: asyncio.AbstractEventLoop) -> Lane | None:
        """Return the way into the instance from *loop*, which runs, if that takes no waiting."""
        client = self._client
        return None if client is None or self._is_doubtful(client) else client.lane_at(loop)

    def get_handle(self, endpoint: str) -> Handle:
        """Return a handle of the app's instance; an unknown endpoint shows when it is called."""
        return self.client().get_handle(endpoint, missing_ok=True)

    def close(self) -> None:
        """Let go of the instance, and end it if it was started here; the next use connects again."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            self._drop(client)

    async def aclose(self) -> None:
        """Same as `close`, for a running loop."""
        if self._client is not None:
            await asyncio.to_thread(self.close)

    def _is_doubtful(self, client: Client) -> bool:
        if self._local:
            return self._pid != os.getpid()
        now = time.monotonic()
        if now < self._next_look:
            return False
        if client.lost:
            return True
        self._next_look = now + LOOK_AGAIN_S
        return False

    def _find(self) -> Client:
        """Return the client of the instance that is there now; the old one is closed if that is another."""
        with self._lock:  # concurrent first requests wait for one another, and only then
            old = self._client
            if old is not None and not self._is_doubtful(old):
                return old
            if old is None:
                _check_not_patched()
            self._next_look = time.monotonic() + LOOK_AGAIN_S
            try:
                # In a context of its own: what lives as long as the process must not know of the request that began it.
                self._client = contextvars.Context().run(self._start) if self._local else self._look(old)
            except (NotConnected, ConfigError):
                if old is None:
                    raise
                if os.path.exists(old.address):
                    return old  # its replicas may serve on without their controller
                self._client = None  # it was shut down, and took its file along: requests need not wait to find out
                old.close()
                raise
            found = self._client
        if old is not None and old is not found and not self._local:
            _logger.warning("the instance was started anew; connected to %s", found.address)
            old.close()
        return found

    def _look(self, old: Client | None) -> Client:
        found = find_instance(self._address, self._name)
        if old is not None and old.generation == found.generation:
            return old
        return client_of(found, self._address)

    def _start(self) -> Client:
        from serve_bridge.deployment import deploy  # late: most apps join an instance that somebody else deploys to

        client = start_local(f"local-{os.getpid()}-{secrets.token_hex(4)}")
        try:
            deploy(*self._declared(), client=client)
        except BaseException:
            client.shutdown()
            raise
        self._pid = os.getpid()
        return client

    def _drop(self, client: Client) -> None:
        if not self._local:
            client.close()
        elif self._pid == os.getpid():
            client.shutdown()

    def ask(
        self,
        route: ForwardedRoute,
        scope: Scope,
        path_params: Mapping[str, Any],
        body: bytes | Readable,
        web_request: Any,
    ) -> Outcome:
        """Forward a request from a web worker's thread, and wait for the head of the answer.

        Raises:
            Exception: What reading *body* raised that is no OSError.
        """
        request = None
        try:
            request = self._request(route, scope, path_params, web_request)
            length = _content_length(scope["headers"])
            head = forward_blocking(
                self.client(), request, body, length=length, most=route.max_body_bytes, logger=_logger
            )
        except (Refused, ServeBridgeError) as error:
            return refused(error, request)
        return Outcome(head.status, head.headers, head.body, _backend_error(head.failure))

    async def ask_async(
        self,
        route: ForwardedRoute,
        scope: Scope,
        path_params: Mapping[str, Any],
        body: bytes | Receive,
        web_request: Any,
        lane: Lane | None = None,
    ) -> Outcome:
        """Same as `ask`, on the running loop; *body* is all of it or an ASGI `receive` that streams it.

        *lane* is the way into the instance, if the caller has looked for it.
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
            if lane is None:
                lane = await (await self.aclient()).lane()
            reply = await forward(lane.router, request, logger=_logger)
        except (Refused, ServeBridgeError) as error:
            return refused(error, request)
        content = reply.body if reply.body is not None else _Chunks(reply)
        return Outcome(reply.status, reply.headers, content, _backend_error(reply.failure))

    async def websocket(
        self,
        route: ForwardedRoute,
        scope: Scope,
        path_params: Mapping[str, Any],
        receive: Receive,
        send: Send,
        web_request: Any,
    ) -> None:
        """Carry a WebSocket from its handshake to its end, on the running loop; nothing of it was received yet.

        Whatever happens, the client has its answer or its close. The route's time is the time for the handshake.
        """
        request = None
        try:
            request = self._request(route, scope, path_params, web_request)
            lane = await (await self.aclient()).lane()
        except (Refused, ServeBridgeError) as error:
            outcome = refused(error, request)
            if (await receive())["type"] == "websocket.connect":
                await deny(scope, send, Answer(outcome.status, outcome.headers, outcome.body))
            return
        await forward_websocket(lane.router, request, scope, receive, send, logger=_logger)

    def _request(
        self, route: ForwardedRoute, scope: Scope, path_params: Mapping[str, Any], web_request: Any
    ) -> Forwarded:
        headers = scope["headers"]
        if not route.credentials:
            headers = [pair for pair in headers if pair[0] not in _CREDENTIALS]
        ends = {"client": _end(scope.get("client")), "server": _end(scope.get("server"))}
        return Forwarded(
            route.endpoint,
            raw_params(path_params),
            {**scope, **ends, "headers": headers},
            timeout_s=self.timeout_s if route.timeout_s is None else route.timeout_s,
            request_ids=_request_ids,
            call_method=route.call_method,
            from_adapter=True,
            context=dict(route.context(web_request)) if route.context is not None else None,
        )


def _end(pair: Any) -> Any:
    # ASGI has it as host and int; one server gives the port as text.
    return (pair[0], int(pair[1])) if pair and isinstance(pair[1], str) else pair


def raw_params(path_params: Mapping[str, Any]) -> RawPathParams:
    """Return a framework's converted path parameters as they travel; a type no converter makes is text."""
    if not path_params:
        return ()
    return tuple((name, _KIND.get(type(value), "str"), str(value)) for name, value in path_params.items())


_KIND: Final[Mapping[type, str]] = {int: "int", float: "float", UUID: "uuid"}


def patched_by() -> str | None:
    """Return what has replaced Python's sockets and threads in this process: "gevent", "eventlet" or None."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if gevent is not None and gevent.is_module_patched("socket"):
        return "gevent"
    if eventlet is not None and eventlet.is_monkey_patched("socket"):
        return "eventlet"
    return None


def _check_not_patched() -> None:
    patch = patched_by()
    if patch is not None:
        raise ConfigError(
            f"{patch} has replaced the sockets and threads of this process, and serve_bridge needs the real ones; "
            "run it under gunicorn's sync or gthread workers, or under an ASGI server"
        )


def _content_length(headers: HeaderList) -> int | None:
    """Return how long the body is; None if only reading it can tell."""
    chunked = False
    for name, value in headers:
        if name == b"content-length" and value.isdigit():
            return int(value)
        chunked = chunked or name == b"transfer-encoding"
    return None if chunked else 0


def _limited(receive: Receive, scope: Scope, most: int | None) -> Receive:
    """Return a `receive` that refuses a body of more than *most* bytes.

    Raises:
        BodyTooLarge: Its Content-Length says so; else the `receive` raises it.
    """
    if most is None:
        return receive
    if (_content_length(scope["headers"]) or 0) > most:
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


def refused(error: ServeBridgeError | Refused, request: Forwarded | None = None) -> Outcome:
    """Return the outcome of a *request* that got no answer of user code; an error of ours is logged."""
    request_id = request.request_id if request is not None else next(_request_ids)
    if isinstance(error, ServeBridgeError):
        _logger.warning("request %s: %s: %s", request_id, type(error).__name__, error)
    return Outcome.of(failed(error, request_id), error)


def _backend_error(failure: str) -> BackendError | None:
    """Return the error that stands for what user code raised, given the traceback of it."""
    if not failure:
        return None
    name, _, text = failure.rstrip().rpartition("\n")[2].partition(":")
    return BackendError(name.strip(), text.strip(), failure)


class _Chunks(AsyncIterator[bytes]):
    """The body of an answer, on its loop; it must be closed in the end, whether it was read or not."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._chunks = reply.chunks()

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._chunks)
        except BaseException:
            self._reply.close()
            raise

    async def aclose(self) -> None:
        """Give up what has not come."""
        await self._chunks.aclose()
        self._reply.close()
