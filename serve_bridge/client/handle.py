"""A handle: what Python code holds to call one endpoint.

Rule 1: a handle holds no socket, thread or loop; it is cheap, picklable, and works in any thread, loop or forked child.
Rule 2: `call` and `acall` share everything but the last wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

from starlette.requests import Request

from serve_bridge.client.call_options import CallOptions
from serve_bridge.client.python_call import PythonCall, answer_of, items_of, iterated, opened_items
from serve_bridge.context import new_request_id, request_id, within_time_left
from serve_bridge.errors import DeadlineExceeded, SerializationError, no_answer
from serve_bridge.process.engine_threads import on_engine_thread
from serve_bridge.request.frozen_request import FrozenRequest
from serve_bridge.request.serve_request import ServeRequest
from serve_bridge.request.whole_body import body_in_thread, body_on_loop
from serve_bridge.routing.process_link import ProcessLink
from serve_bridge.user_code.unpicklable import unpicklable_arguments
from serve_bridge.wire import calls_made as calls
from serve_bridge.wire import payload
from serve_bridge.wire.heads import INLINE_BODY_BYTES, CallHead

_Result = TypeVar("_Result")


class Handle:
    """Calls one endpoint."""

    def __init__(self, link: ProcessLink, endpoint: str, options: CallOptions | None = None) -> None:
        self._link = link
        self.endpoint = endpoint
        self._options = options or CallOptions()

    def options(
        self,
        *,
        method_name: str | None = None,
        shard_key: str | None = None,
        http_method: str | None = None,
        http_headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Handle:
        """Return a new handle; what is not given stays as it is here.

        Args:
            method_name: Method of the backend to call instead of `__call__`.
            shard_key: Requests with one key go to one backend.
            http_method: What the backend sees as `request.method`. An idempotent one allows a retry.
            http_headers: What the backend sees as `request.headers`. A valid `X-Request-Id` among them is the id of
                each call; otherwise the id is that of the request that makes the call, or a new one.
            timeout_s: Seconds that a call may take; past it `DeadlineExceeded`.

        Raises:
            TypeError, ConfigError: A value is of the wrong type or out of range.
        """
        given = {
            "method_name": method_name,
            "shard_key": shard_key,
            "http_method": http_method,
            "http_headers": http_headers,
            "timeout_s": timeout_s,
        }
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return type(self)(self._link, self.endpoint, replace(self._options, **changes))

    def call(self, data: Any = None, /, **kwargs: Any) -> Any:
        """Send one request to the endpoint over the data plane and return its result; needs no Ray here.

        Args:
            data: What the backend finds in the request: `request.data`, `await request.json()`, ...
            kwargs: `request.query_params`, or the keyword arguments of another method.

        Raises:
            EndpointNotFound: Nobody created the endpoint, or it was deleted meanwhile.
            BackendOverloaded: Every replica and the waiting line were full; nothing was started.
            DeadlineExceeded: Time is up; the work is cancelled.
            ReplicaDied: The replica stopped before answering; the work may have run, so nothing was retried.
            SerializationError: An argument or the result has no pickled form.
            RuntimeError: An event loop runs in this thread; `await handle.acall(...)` there.
            Exception: What user code raised, as its own type.
        """
        refuse_on_running_loop("call", "await handle.acall(...)")
        deadline = self._deadline()  # packing counts
        data = _held(data)
        request = self._request(data, _pack(data, kwargs), deadline)
        answer = self._link.send(request)
        if answer is not None:
            try:
                return calls.value_of(answer.head, answer.read_whole)
            finally:
                answer.close()
        return self._link.run(lambda channel: answer_of(channel, request), request.timeout_s)

    async def acall(self, data: Any = None, /, **kwargs: Any) -> Any:
        """Same as :meth:`call`, for a running event loop."""
        deadline = self._deadline()
        data = await _read(data)
        segments = await self._apack(data, kwargs, deadline)
        channel = await self._link.channel(deadline.left_s())
        return await answer_of(channel, self._request(data, segments, deadline))

    def stream(self, data: Any = None, /, **kwargs: Any) -> Iterator[Any]:
        """Iterate what a generator backend yields; errors as :meth:`call`, while iterating too."""
        refuse_on_running_loop("stream", "async for ... in handle.astream(...)")
        deadline = self._deadline()
        data = _held(data)
        request = self._request(data, _pack(data, kwargs), deadline, generator=True)
        items: AsyncGenerator[Any, None] = self._link.run(
            lambda channel: opened_items(channel, request), request.timeout_s
        )
        return iterated(self._link, items, request.timeout_s)

    async def astream(self, data: Any = None, /, **kwargs: Any) -> AsyncIterator[Any]:
        """Same as :meth:`stream`, for a running event loop."""
        deadline = self._deadline()
        data = await _read(data)
        segments = await self._apack(data, kwargs, deadline)
        channel = await self._link.channel(deadline.left_s())
        items = items_of(channel, self._request(data, segments, deadline, generator=True))
        try:
            async for item in items:
                yield item
        finally:
            await items.aclose()

    def remote(self, data: Any = None, /, **kwargs: Any) -> Any:
        """Send one request as a Ray actor call and return its ObjectRef at once, for `ray.get` and `ray.wait`.

        ObjectRefs among the arguments are resolved first.

        Raises:
            NotConnected: This process does not use Ray; use :meth:`call`.
            EndpointNotFound, BackendOverloaded: As :meth:`call`.
        """
        data = _held(data)
        head = self._head(data, 0, b"", False, within_time_left(self._options.timeout_s))
        return self._link.submit(self.endpoint, self._options.shard_key, head, data, kwargs)

    async def _apack(self, data: Any, kwargs: dict[str, Any], deadline: _Deadline) -> list[payload.Segment]:
        """Same as `_pack`, for a running loop, until *deadline*."""
        try:
            return await payload.apack((data, kwargs), deadline.left_s())
        except SerializationError as error:
            raise await on_engine_thread(unpicklable_arguments, data, kwargs, error) from error
        except DeadlineExceeded:
            hint = "packing the arguments took all of it"
            raise no_answer(self.endpoint, deadline.limit_s, "no", hint) from None

    def _deadline(self) -> _Deadline:
        """Return the deadline of a call that begins now."""
        limit_s = within_time_left(self._options.timeout_s)
        return _Deadline(time.monotonic() + limit_s, limit_s)

    def _request(
        self, data: Any, segments: Sequence[payload.Segment], deadline: _Deadline, *, generator: bool = False
    ) -> PythonCall:
        size = payload.size_of(segments)
        inline = size <= INLINE_BODY_BYTES
        head = self._head(data, size, payload.join(segments) if inline else b"", generator, deadline.limit_s)
        return PythonCall(head, self._options, deadline.left_s(), None if inline else segments)

    def _head(self, data: Any, size: int, body: bytes, generator: bool, timeout_s: float) -> CallHead:
        options = self._options
        return CallHead(
            self.endpoint,
            "",
            0,
            timeout_s,
            self._request_id(data),
            options.method_name or "",
            options.http_method or "GET",
            options.http_headers,  # type: ignore[arg-type]  # CallOptions has made it a dict
            generator,
            size,
            body,
        )

    def _request_id(self, data: Any) -> str:
        """Return the id of a call: that of the caller's choice, of the running request, of *data*, or a new one."""
        found = self._options.request_id or request_id()
        if found is None and type(data) is FrozenRequest:
            found = data.request_id
        return found or new_request_id()

    def __reduce__(self) -> Any:
        return (type(self), (self._link.reference(), self.endpoint, self._options))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.endpoint!r})"


class _Deadline(NamedTuple):
    """When a call has to be over.

    Attributes:
        at: By `time.monotonic`.
        limit_s: Seconds that the call has in all.
    """

    at: float
    limit_s: float

    def left_s(self) -> float:
        """Return the seconds that are left."""
        return self.at - time.monotonic()


class AsyncHandle(Handle):
    """A handle whose `remote` is awaited, as `get_handle(..., sync=False)` returns."""

    async def remote(self, data: Any = None, /, **kwargs: Any) -> Any:
        """Same as :meth:`Handle.remote`, without holding the loop up."""
        data = await _read(data)
        return await on_engine_thread(partial(super().remote, data, **kwargs))


def _pack(data: Any, kwargs: dict[str, Any]) -> list[payload.Segment]:
    """Return the arguments of a call, packed.

    Raises:
        SerializationError: Something in them cannot be pickled; the message names the path to it.
    """
    try:
        return payload.pack((data, kwargs))
    except SerializationError as error:
        raise unpicklable_arguments(data, kwargs, error) from error


def refuse_on_running_loop(name: str, instead: str) -> None:
    """Raise RuntimeError if the calling thread runs an event loop, which a blocking wait would stop."""
    if asyncio._get_running_loop() is not None:
        raise RuntimeError(f"handle.{name}() would block the event loop that runs in this thread; use: {instead}")


async def _read(data: Any) -> Any:
    if isinstance(data, Request):
        return FrozenRequest.of(data, await body_on_loop(data))
    if isinstance(data, ServeRequest):
        await data.hold()
    return data


def _held(data: Any) -> Any:
    """Return *data*, a web request with all that it holds."""
    if isinstance(data, Request):
        return FrozenRequest.of(data, body_in_thread(data))
    if isinstance(data, ServeRequest):
        data.hold_in_thread()
    return data
