"""One app's way to an instance, and its forwarded routes: what the adapters share.

Rule 1: nothing is read, connected or started before the first use; a forked child starts afresh.
Rule 2: a route decides, not a request: the backend's method, the time, which credentials and facts go along.
Rule 3: whatever happens becomes an `Outcome`; only the adapter knows what its framework makes of it.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from uuid import UUID

from starlette.types import Receive, Scope

from serve_bridge.api import find_client
from serve_bridge.client import Client
from serve_bridge.errors import ServeBridgeError
from serve_bridge.forwarding import BadControlHeader, BlockingChunks, Forwarded, Reply, failed, forward
from serve_bridge.handle import Handle
from serve_bridge.lane import Lane
from serve_bridge.messages import HeaderList, RawPathParams
from serve_bridge.results import Answer

SYNC_TIMEOUT_S: Final = 25.0
"""Default of a route in a worker that a server such as gunicorn kills when one request takes 30 s."""
ASYNC_TIMEOUT_S: Final = 60.0

_CREDENTIALS = frozenset({b"authorization", b"cookie"})
_logger = logging.getLogger("serve_bridge.adapters")
# A prefix per process would be shared by forked workers; a request can afford its own randomness.
_request_ids: Iterator[str] = iter(partial(secrets.token_hex, 8), "")


@dataclass(frozen=True, kw_only=True, slots=True)
class ForwardedRoute:
    """How the requests of one route reach their endpoint.

    Attributes:
        endpoint: Whom they are for.
        method_name: Method of the backend to call instead of `__call__`.
        method_header: Let the request's X-SERVE-CALL-METHOD choose the method.
        timeout_s: Seconds a request may take; past it the answer is 504.
        credentials: Send the headers Cookie and Authorization along; the app's own, so not by default.
        context: Given the framework's request, returns what the backend finds in `request.state`: text,
            numbers, bool, None.
    """

    endpoint: str
    method_name: str | None = None
    method_header: bool = False
    timeout_s: float = ASYNC_TIMEOUT_S
    credentials: bool = False
    context: Callable[[Any], Mapping[str, Any]] | None = None

    def request(self, scope: Scope, path_params: Mapping[str, Any], web_request: Any) -> Forwarded:
        """Return the request that *scope* describes, on its way.

        Raises:
            BadControlHeader: The client is to blame.
        """
        if not self.credentials:
            headers = [pair for pair in scope["headers"] if pair[0] not in _CREDENTIALS]
            scope = {**scope, "headers": headers}
        return Forwarded(
            self.endpoint,
            raw_params(path_params),
            scope,
            timeout_s=self.timeout_s,
            request_ids=_request_ids,
            call_method=None if self.method_header and self.method_name is None else self.method_name or "",
            from_adapter=True,
            context=dict(self.context(web_request)) if self.context is not None else None,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a forwarded request.

    Attributes:
        status: The status to answer with.
        headers: The headers to answer with, lower-case.
        body: The whole body, or its chunks: blocking from `Bridge.ask`, asynchronous from `Bridge.ask_async`.
        failed: Whether there is no answer of user code; the body is then a problem (RFC 9457).
    """

    status: int
    headers: HeaderList
    body: Any
    failed: bool

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

    def __init__(self, address: str | None = None, *, name: str = "default") -> None:
        """Take what `serve_bridge.connect` takes; used on the first request."""
        self._address = address
        self._name = name
        self._lock = threading.Lock()
        self._client: Client | None = None

    def client(self) -> Client:
        """Return the app's client.

        Raises:
            NotConnected: No instance is running where it was looked for; the next call looks again.
            ConfigError: The address is none.
        """
        if self._client is None:
            with self._lock:
                if self._client is None:
                    self._client = find_client(self._address, self._name)
        return self._client

    def get_handle(self, endpoint: str) -> Handle:
        """Return a handle of the app's instance; an unknown endpoint shows when it is called."""
        return self.client().get_handle(endpoint, missing_ok=True)

    def close(self) -> None:
        """Let go of the instance; the next use connects again."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def ask(
        self,
        route: ForwardedRoute,
        scope: Scope,
        path_params: Mapping[str, Any],
        body: bytes,
        web_request: Any,
    ) -> Outcome:
        """Forward a request whose whole *body* is here, and wait for the head of the answer."""
        request = None
        try:
            request = route.request(scope, path_params, web_request)
            request.take_body(body)
            client = self.client()
            reply: Reply = client.run(partial(_forward, request), route.timeout_s)
        except (BadControlHeader, ServeBridgeError) as error:
            return _refused(error, request)
        content = reply.body if reply.body is not None else BlockingChunks(client, reply, route.timeout_s)
        return Outcome(reply.status, reply.headers, content, bool(reply.failure))

    async def ask_async(
        self,
        route: ForwardedRoute,
        scope: Scope,
        path_params: Mapping[str, Any],
        body: bytes | Receive,
        web_request: Any,
    ) -> Outcome:
        """Same as `ask`, on the running loop; *body* may also be an ASGI `receive` that streams it."""
        request = None
        try:
            request = route.request(scope, path_params, web_request)
            if isinstance(body, bytes):
                request.take_body(body)
            else:
                await request.receive_body(body)
            lane = await self.client().lane()
            reply = await _forward(request, lane)
        except (BadControlHeader, ServeBridgeError) as error:
            return _refused(error, request)
        content = reply.body if reply.body is not None else _chunks(reply)
        return Outcome(reply.status, reply.headers, content, bool(reply.failure))


def raw_params(path_params: Mapping[str, Any]) -> RawPathParams:
    """Return a framework's converted path parameters as they travel; a type no converter makes is text."""
    return tuple((name, _KIND.get(type(value), "str"), str(value)) for name, value in path_params.items())


_KIND: Final[Mapping[type, str]] = {int: "int", float: "float", UUID: "uuid"}


async def _forward(request: Forwarded, lane: Lane) -> Reply:
    return await forward(lane.router, request, logger=_logger)


def _refused(error: ServeBridgeError | BadControlHeader, request: Forwarded | None) -> Outcome:
    request_id = request.request_id if request is not None else next(_request_ids)
    if isinstance(error, ServeBridgeError):
        _logger.warning("request %s: %s: %s", request_id, type(error).__name__, error)
    answer: Answer = failed(error, request_id)
    return Outcome(answer.status, answer.headers, answer.body, True)


async def _chunks(reply: Reply) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(reply.chunks()) as chunks:
            async for chunk in chunks:
                yield chunk
    finally:
        reply.close()
