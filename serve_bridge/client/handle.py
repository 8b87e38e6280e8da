"""A handle: what Python code holds to call one endpoint.

Rule 1: a handle holds no socket, thread or loop; it is cheap, picklable, and works in any thread, loop or forked child.
Rule 2: `call` and `acall` share everything but the last wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Final,
    Generic,
    NamedTuple,
    Protocol,
    Self,
    cast,
    overload,
)

from starlette.requests import Request

from serve_bridge.client.call_options import DEFAULT_TIMEOUT_S, CallOptions
from serve_bridge.client.called_method import name_of_method, positional_names
from serve_bridge.client.python_call import PythonCall, answer_of, items_of, iterated, opened_items
from serve_bridge.context import new_request_id, request_id, within_time_left
from serve_bridge.errors import DeadlineExceeded, NotAllowed, SerializationError, no_answer
from serve_bridge.process.engine_threads import on_engine_thread
from serve_bridge.request.frozen_request import FrozenRequest
from serve_bridge.request.serve_request import ServeRequest
from serve_bridge.request.whole_body import body_in_thread, body_on_loop
from serve_bridge.routing.process_link import ProcessLink
from serve_bridge.user_code.unpicklable import unpicklable_arguments
from serve_bridge.wire import calls_made as calls
from serve_bridge.wire.heads import INLINE_BODY_BYTES, CallHead
from serve_bridge.wire.keys import Role
from serve_bridge.wire.plain_values import NotPlain
from serve_bridge.wire.segments import Segment, join, size_of

if TYPE_CHECKING:
    from typing_extensions import ParamSpec, TypeVar

    Parameters = ParamSpec("Parameters", default=...)
    Result = TypeVar("Result", covariant=True, default=Any)
    Data = TypeVar("Data")
    Value = TypeVar("Value")
    Own = ParamSpec("Own")
else:  # Python 3.11 has no defaults of type variables; at run time none is needed
    from typing import ParamSpec, TypeVar

    Parameters, Own = ParamSpec("Parameters"), ParamSpec("Own")
    Result, Data, Value = TypeVar("Result", covariant=True), TypeVar("Data"), TypeVar("Value")

UNCHANGED: Final[Any] = ...
"""Stands for an option without an argument."""


class ObjectRef(Protocol[Result]):
    """The result of `remote`: a Ray `ObjectRef`, for `ray.get`, `ray.wait` and `await`."""

    def __await__(self) -> Generator[Any, Any, Result]:
        """Wait for the result, on a running event loop."""

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of Ray's class."""


class Handle(Generic[Parameters, Result]):
    """Calls one endpoint. `get_handle` and `handle` make it.

    `handle` returns a typed one, `Handle[Parameters, Result]`: type checkers know what its calls take and return.
    A handle of `get_handle` takes at most one positional argument, the data of the call, and any keyword arguments.

    Attributes:
        endpoint: Name of the endpoint.
    """

    def __init__(self, link: Any, endpoint: str, options: Any = None) -> None:
        """Call *endpoint* over *link*; `get_handle` and `handle` make handles."""
        self._link: ProcessLink = link  # not said in the signature, since nothing of it is public
        self.endpoint: str = endpoint
        self._options: CallOptions = options or CallOptions()

    def options(
        self,
        *,
        method_name: str | None = UNCHANGED,
        shard_key: str | None = UNCHANGED,
        http_method: str | None = UNCHANGED,
        http_headers: Mapping[str, str] | None = UNCHANGED,
        timeout_s: float | None = UNCHANGED,
    ) -> Self:
        """Return a new handle with other options. An option that is not given stays as it is; None is its default.

        Args:
            method_name: Method of the backend's class to call. Default: `__call__`. For a typed result use `method`.
            shard_key: Requests with the same key go to the same backend. Default: each request is drawn by weight.
            http_method: The backend's `request.method`, default GET. With an idempotent one, and without *method_name*,
                a call is sent again if its replica dies.
            http_headers: The backend's `request.headers`. A valid `X-Request-Id` among them is the id of each call.
                Otherwise a call has the id of the running request, or a new one.
            timeout_s: Time limit of a call in seconds, default 60. Past it the call raises `DeadlineExceeded`.

        Raises:
            TypeError, ConfigError: A value is of the wrong type or out of range.
        """
        given = {
            "method_name": method_name,
            "shard_key": shard_key,
            "http_method": http_method,
            "http_headers": http_headers,
            "timeout_s": DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s,
        }
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not UNCHANGED}
        if "method_name" in changes:
            changes["positional"] = ()
        return type(self)(self._link, self.endpoint, replace(self._options, **changes))

    @overload
    def method(self, method: Callable[[Any, ServeRequest[Data]], Awaitable[Value]], /) -> Handle[[Data], Value]: ...

    @overload
    def method(self, method: Callable[[Any, ServeRequest[Data]], Value], /) -> Handle[[Data], Value]: ...

    @overload
    def method(self, method: Callable[[Any, Request], Awaitable[Value]], /) -> Handle[[Any], Value]: ...

    @overload
    def method(self, method: Callable[[Any, Request], Value], /) -> Handle[[Any], Value]: ...

    @overload
    def method(
        self, method: Callable[[Any, list[ServeRequest[Data]]], Awaitable[Sequence[Value]]], /
    ) -> Handle[[Data], Value]: ...

    @overload
    def method(
        self, method: Callable[[Any, list[ServeRequest[Data]]], Sequence[Value]], /
    ) -> Handle[[Data], Value]: ...

    @overload
    def method(self, method: Callable[Concatenate[Any, Own], Awaitable[Value]], /) -> Handle[Own, Value]: ...

    @overload
    def method(self, method: Callable[Concatenate[Any, Own], Value], /) -> Handle[Own, Value]: ...

    def method(self, method: Callable[..., Any], /) -> Handle[..., Any]:
        """Return a typed handle that calls another method of the backend's class.

        ::

            mood = serve.handle(Mood)
            mood.method(Mood.count).call(5)

        Its calls take the parameters of the method without `self`, and return its result. The first argument travels as
        the data of the call, and every other one as a keyword argument. If the method takes a `ServeRequest`, a call
        takes one value, the request's `data`.

        Args:
            method: A method of the class, such as `Mood.count`. For static methods and class methods use
                `options(method_name=...)`.

        Raises:
            TypeError: *method* is not such a method, or a parameter after its first one is positional only, so calls
                cannot set it.
        """
        options = replace(self._options, method_name=name_of_method(method), positional=positional_names(method))
        return type(self)(self._link, self.endpoint, options)

    def call(self, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        """Send one request to the endpoint over the data plane, wait for its result and return it; needs no Ray here.

        Args:
            args: The data of the call: the backend's `request.data`, also `await request.json()` and so on. A method
                that takes no request gets it as its first argument.
            kwargs: The backend's `request.query_params`, or the keyword arguments of a method that takes no request.

        Raises:
            EndpointNotFound: The endpoint does not exist, or was deleted.
            MethodNotExposed: The backend has no such method for callers.
            BackendOverloaded: Every replica and the queue were full; nothing was started.
            DeadlineExceeded: The time limit has passed. The work is cancelled; `def` code runs to its end.
            ReplicaDied: The replica ended before it answered. The work may have run, so the call was not repeated.
            SerializationError: An argument or the result cannot be pickled.
            NotAllowed: This process may only send plain data, and an argument is not plain data.
            ConfigError: The endpoint's backend is an application, which is called over HTTP only.
            NotConnected: No instance answers.
            InstanceClosed: The instance was shut down.
            TypeError: The backend does not take these arguments.
            RuntimeError: An event loop runs in this thread; use `await handle.acall(...)` there.
            BackendError: User code raised an error whose class cannot be unpickled here.
            Exception: The error that user code raised, with its own type.
        """
        refuse_on_running_loop("call", "await handle.acall(...)")
        deadline = self._deadline()  # packing counts
        data = _held(args[0] if len(args) == 1 else self._data(args, kwargs))
        request = self._request(data, self._pack(data, kwargs), deadline)
        answer = self._link.send(request)
        if answer is not None:
            try:
                return cast(Result, calls.value_of(answer.head, answer.read_whole, self._link.codec))
            finally:
                answer.close()
        return cast(Result, self._link.run(lambda channel: answer_of(channel, request), request.timeout_s))

    async def acall(self, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        """Same as `call`, for a running event loop."""
        deadline = self._deadline()
        data = await _read(args[0] if len(args) == 1 else self._data(args, kwargs))
        segments = await self._apack(data, kwargs, deadline)
        channel = await self._link.channel(deadline.left_s())
        return cast(Result, await answer_of(channel, self._request(data, segments, deadline)))

    def stream(
        self: Handle[Parameters, Iterator[Value] | AsyncIterator[Value]],
        /,
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Iterator[Value]:
        """Send one request to a generator backend, and yield its items as they arrive.

        The arguments and errors are those of `call`. An error of the backend can be raised by each item.
        """
        refuse_on_running_loop("stream", "async for ... in handle.astream(...)")
        deadline = self._deadline()
        data = _held(args[0] if len(args) == 1 else self._data(args, kwargs))
        request = self._request(data, self._pack(data, kwargs), deadline, generator=True)
        items: AsyncGenerator[Any, None] = self._link.run(
            lambda channel: opened_items(channel, request), request.timeout_s
        )
        return iterated(self._link, items, request.timeout_s)

    async def astream(
        self: Handle[Parameters, Iterator[Value] | AsyncIterator[Value]],
        /,
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> AsyncIterator[Value]:
        """Same as `stream`, for a running event loop."""
        deadline = self._deadline()
        data = await _read(args[0] if len(args) == 1 else self._data(args, kwargs))
        segments = await self._apack(data, kwargs, deadline)
        channel = await self._link.channel(deadline.left_s())
        items = items_of(channel, self._request(data, segments, deadline, generator=True))
        try:
            async for item in items:
                yield item
        finally:
            await items.aclose()

    def remote(self, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> ObjectRef[Result]:
        """Send one request as a Ray actor call and return its ObjectRef at once, for `ray.get` and `ray.wait`.

        The arguments are those of `call`. Ray resolves ObjectRefs among them first.

        Raises:
            NotConnected: This process does not use Ray; use `call`.
            EndpointNotFound, BackendOverloaded: As `call`.
        """
        data = _held(args[0] if len(args) == 1 else self._data(args, kwargs))
        head = self._head(data, 0, b"", False, within_time_left(self._options.timeout_s))
        return cast(ObjectRef[Result], self._link.submit(self.endpoint, self._options.shard_key, head, data, kwargs))

    def _data(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the data of a call. Its other positional arguments become keyword arguments."""
        if not args:
            return None
        names = self._options.positional
        if len(args) > 1 + len(names):
            raise TypeError(
                f"a call of this handle takes at most {1 + len(names)} positional arguments, got {len(args)}: the data "
                "of the call comes first, and other arguments are passed by name"
            )
        for name, value in zip(names, args[1:], strict=False):
            if name in kwargs:
                raise TypeError(f"the call got {name!r} twice, by position and by name")
            kwargs[name] = value
        return args[0]

    def _pack(self, data: Any, kwargs: dict[str, Any]) -> list[Segment]:
        """Return the arguments of a call, packed.

        Raises:
            SerializationError: A part of them cannot be pickled. The message has the path to it.
            NotAllowed: They are not plain data, and this process may send only that.
        """
        try:
            return self._link.codec.pack((data, kwargs))
        except NotPlain as error:
            raise self._needs_role_call(error) from None
        except SerializationError as error:
            raise unpicklable_arguments(data, kwargs, error) from error

    def _needs_role_call(self, error: NotPlain) -> NotAllowed:
        return self._link.needs_role(Role.CALL, f"a call whose arguments are not plain data ({error})")

    async def _apack(self, data: Any, kwargs: dict[str, Any], deadline: _Deadline) -> list[Segment]:
        """Same as `_pack`, for a running loop, until *deadline*."""
        try:
            return await self._link.codec.apack((data, kwargs), deadline.left_s())
        except NotPlain as error:
            raise self._needs_role_call(error) from None
        except SerializationError as error:
            raise await on_engine_thread(unpicklable_arguments, data, kwargs, error) from error
        except DeadlineExceeded:
            hint = "packing the arguments took all of it"
            raise no_answer(self.endpoint, deadline.limit_s, "no", hint) from None

    def _deadline(self) -> _Deadline:
        """Return the deadline of a call from now on."""
        limit_s = within_time_left(self._options.timeout_s)
        return _Deadline(time.monotonic() + limit_s, limit_s)

    def _request(
        self, data: Any, segments: Sequence[Segment], deadline: _Deadline, *, generator: bool = False
    ) -> PythonCall:
        size = size_of(segments)
        inline = size <= INLINE_BODY_BYTES
        head = self._head(data, size, join(segments) if inline else b"", generator, deadline.limit_s)
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
        """Return the id of a call: the caller's choice, the id of the running request or of *data*, or a new one."""
        found = self._options.request_id or request_id()
        if found is None and type(data) is FrozenRequest:
            found = data.request_id
        return found or new_request_id()

    def __reduce__(self) -> Any:
        return (type(self), (self._link.reference(), self.endpoint, self._options))

    def __repr__(self) -> str:
        given = "".join(f", {name}={value!r}" for name, value in self._options.chosen())
        return f"{type(self).__name__}({self.endpoint!r}{given})"


class _Deadline(NamedTuple):
    """The end of a call's time.

    Attributes:
        at: The end, by `time.monotonic`.
        limit_s: Time limit of the whole call, in seconds.
    """

    at: float
    limit_s: float

    def left_s(self) -> float:
        """Return the remaining seconds."""
        return self.at - time.monotonic()


class AsyncHandle(Handle[Parameters, Result]):
    """A handle whose `remote` is awaited, as `get_handle(..., sync=False)` returns it."""

    async def remote(  # type: ignore[override]  # awaited: that is the difference
        self, /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> ObjectRef[Result]:
        """Same as `Handle.remote`, without blocking the event loop."""
        data = await _read(args[0] if len(args) == 1 else self._data(args, kwargs))
        return cast(ObjectRef[Result], await on_engine_thread(partial(super().remote, data, **kwargs)))


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
    """Return *data*; a web request with its body and form read."""
    if isinstance(data, Request):
        return FrozenRequest.of(data, body_in_thread(data))
    if isinstance(data, ServeRequest):
        data.hold_in_thread()
    return data
