"""`ServeRequest`, the request of a handle call or of an adapter. It reads like a `starlette.requests.Request`.

Rule 1: a `ServeRequest` wraps a Python value (a handle call), or a web request forwarded by an adapter.
Rule 2: Starlette reads a forwarded body, so its users find the limits, caching and errors that they know.
Rule 3: `ServeRequest` is not a subclass of Starlette's `Request`: `isinstance` tells the two apart.
    Each public attribute of `Request` exists here, too. It works, or it raises an error with the reason and a way out.
Rule 4: a web request passed on with a handle arrives as the same kind of request, not inside another one. Starlette's
    `Request` travels as a `FrozenRequest`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator, Mapping
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, cast

from starlette.datastructures import URL, Address, Headers, State
from starlette.requests import Request
from starlette.types import Receive, Scope

from serve_bridge.errors import SerializationError
from serve_bridge.request.application_attributes import ApplicationAttributes
from serve_bridge.request.body_channel import PIECE_BYTES, BodyChannel, Caller
from serve_bridge.request.form_reading import FormReading
from serve_bridge.request.json_body import parse_json
from serve_bridge.request.query_values import QueryValues
from serve_bridge.request.whole_body import body_in_thread, body_on_loop

__all__ = [
    "RawHeaders",
    "ServeRequest",
]

RawHeaders: TypeAlias = Iterable[tuple[bytes, bytes]]

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    Data = TypeVar("Data", covariant=True, default=Any)
else:  # Python 3.11 has no defaults of type variables; at run time none is needed
    from typing import TypeVar

    Data = TypeVar("Data", covariant=True)

_JSON_TYPES: Final = (dict, list, str, int, float, bool, type(None))


class ServeRequest(ApplicationAttributes, Generic[Data]):
    """One request as user code sees it.

    `ServeRequest[str]` is a request whose `data` is a str. Typed handles of the backend then take a str.

    As a mapping, it is its ASGI scope, like Starlette's `Request`.

    Args:
        data: The Python value of a handle call; not used with *body*.
        kwargs: Keyword arguments of the call. They follow *query_string* in the query parameters.
        method: HTTP method.
        headers: A mapping of names to values, or pairs of bytes with names in lower case.
        path: Path without the query, with or without *root_path*, as in an ASGI scope.
        path_params: Typed parameters of the matched route.
        query_string: Raw query of a forwarded request.
        body: The forwarded body, bytes or an asynchronous iterator of bytes; None: the request wraps *data*.
        client: Host and port of the peer.
        scheme: "http" or "https".
        server: Host and port of the server, for `url` of a request without a Host header.
        root_path: Path below which the application is mounted.
        state: Context of the caller, for `request.state`.
        caller: The peer waiting for the answer; None: it cannot leave.
    """

    __slots__ = ("_body", "_caller", "_channel", "_data", "_kwargs", "_query", "_scope", "_web")
    _query: QueryValues | None
    _web: Request | None
    _caller: Caller | None
    _channel: Receive | None
    _scope: Scope

    # As in Starlette, a request equals only itself.
    def __eq__(self, other: object, /) -> bool:
        return self is other

    __hash__ = object.__hash__

    def __init__(
        self,
        data: Any = None,
        *,
        kwargs: Mapping[str, Any] | None = None,
        method: str = "GET",
        headers: Mapping[str, str] | RawHeaders | None = None,
        path: str = "/",
        path_params: Mapping[str, Any] | None = None,
        query_string: bytes = b"",
        body: bytes | AsyncIterable[bytes] | None = None,
        client: tuple[str, int] | None = None,
        scheme: str = "http",
        server: tuple[str, int | None] | None = None,
        root_path: str = "",
        state: Mapping[str, Any] | None = None,
        caller: Caller | None = None,
    ) -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "app": None,  # if this key is there, Starlette answers a malformed form with 400
            "method": method,
            "headers": _raw_headers(headers) if headers else [],
            "path": path,
            "path_params": dict(path_params) if path_params else {},
            "query_string": query_string,
            "client": client,
            "scheme": scheme,
            "server": server,
            "root_path": root_path,
            "state": dict(state) if state else {},
        }
        self.__setstate__((data, dict(kwargs) if kwargs else {}, scope, body))
        self._caller = caller

    @classmethod
    def of_scope(cls, scope: Scope, body: bytes | AsyncIterable[bytes], caller: Caller | None = None) -> ServeRequest:
        """Return the forwarded request of *scope*, a scope for HTTP. The request takes *scope* over, without a copy."""
        request = cls.__new__(cls)
        request.__setstate__((None, {}, scope, body))
        request._caller = caller
        return request

    def __getitem__(self, key: str) -> Any:
        return self._scope[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._scope)

    def __len__(self) -> int:
        return len(self._scope)

    @property
    def scope(self) -> Scope:
        """The ASGI scope. A handle call has one, too, as if it were an HTTP request."""
        return self._scope

    @property
    def data(self) -> Data:
        """The object passed to the handle.

        For a forwarded request, this is the raw body as bytes; None until the body is read.
        """
        if self._body is None:
            return cast(Data, self._data)
        return cast(Data, self._body if isinstance(self._body, bytes) else getattr(self._web, "_body", None))

    @property
    def method(self) -> str:
        """The HTTP method; "GET" unless the caller chose another."""
        method: str = self._scope["method"]
        return method

    @property
    def path_params(self) -> dict[str, Any]:
        """The typed parameters of the matched route."""
        path_params: dict[str, Any] = self._scope["path_params"]
        return path_params

    @property
    def headers(self) -> Headers:
        """The headers; names are case-insensitive."""
        return self._request.headers

    @property
    def query_params(self) -> QueryValues:
        """The query of a forwarded request, as strings; then the keyword arguments of the call, as passed."""
        if self._query is None:
            self._query = QueryValues([*self._request.query_params.multi_items(), *self._kwargs.items()])
        return self._query

    @property
    def url(self) -> URL:
        """The URL as the caller sent it; for a handle call, only the path."""
        return self._request.url

    @property
    def base_url(self) -> URL:
        """The URL of the application's root; for a handle call, only the path."""
        return self._request.base_url

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies by name."""
        return self._request.cookies

    @property
    def client(self) -> Address | None:
        """Host and port of the peer; None if there is none."""
        return self._request.client

    @property
    def state(self) -> State:
        """The caller's context. User code may add attributes of its own."""
        return self._request.state

    @property
    def receive(self) -> Receive:
        """The ASGI channel of the body. Its last message is `http.disconnect`, after the caller has left.

        Raises:
            SerializationError: The value passed to the handle is not bytes, str or None.
        """
        if self._body is not None:
            return self._request.receive
        if self._channel is None:
            self._channel = BodyChannel(_as_bytes(self._data), self._caller)
        return self._channel

    async def is_disconnected(self) -> bool:
        """Return whether the caller has left. False for a caller that cannot leave, such as the caller of a Ray call.

        User code is cancelled at its next `await` when its caller leaves. This method is for loops without one.
        """
        await asyncio.sleep(0)  # the loop must run, to read the message of the caller
        return self._caller is not None and not self._caller.may_send()

    async def send_push_promise(self, path: str) -> None:
        """Do nothing, as Starlette does if the server cannot push."""

    async def send_early_hints(self, link: str, /, *additional_links: str) -> None:
        """Do nothing, as Starlette does if the server cannot send early hints."""

    async def close(self) -> None:
        """Close the files of the form, if the form was read."""
        await self._close_form()

    async def body(self) -> Any:
        """Return the value passed to the handle (None without a value), or the bytes of a forwarded body."""
        return self._data if self._body is None else await self._request.body()

    async def hold(self) -> None:
        """Receive a forwarded body completely, so the request can be passed on.

        Raises:
            SerializationError: User code has streamed a part of the body.
        """
        if self._body is not None:
            await body_on_loop(self._request)

    def hold_in_thread(self) -> None:
        """Do as `hold` does, from a thread without a loop.

        Raises:
            SerializationError: The body has not arrived, and this thread cannot wait for it.
        """
        if self._body is not None:
            self._request._body = body_in_thread(self._request)

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the body in chunks, and an empty one at its end.

        Raises:
            SerializationError: The value passed to the handle is not bytes, str or None.
            RuntimeError: A forwarded body was streamed before.
        """
        if self._body is None:
            chunk = _as_bytes(self._data)
            if chunk:
                yield chunk
            yield b""
            return
        async with aclosing(self._request.stream()) as chunks:
            async for chunk in chunks:
                yield chunk

    async def json(self) -> Any:
        """Return the value passed to the handle, or the parsed JSON of a forwarded body.

        Raises:
            SerializationError: The value passed to the handle has no type of JSON.
            ValueError: A forwarded body is not JSON.
        """
        if self._body is not None:
            request = self._request
            if not hasattr(request, "_json"):  # Starlette keeps it under this name
                request._json = await parse_json(await request.body())
            return request._json
        if not isinstance(self._data, _JSON_TYPES):
            raise SerializationError(f"request data of type {_kind(self._data)} is not JSON; use request.data")
        return self._data

    def form(self, **limits: Any) -> FormReading:
        """Read the form; use it with `await` or `async with`.

        Args:
            limits: `max_files`, `max_fields` and `max_part_size` of Starlette; ignored for a handle call.

        Raises:
            SerializationError: The value passed to the handle is not a dict.
        """
        return FormReading(partial(self._read_form, limits), self._close_form)

    async def _read_form(self, limits: Mapping[str, Any]) -> Any:
        if self._body is not None:
            request = self._request
            body = getattr(request, "_body", b"")
            if len(body) > PIECE_BYTES and request._form is None:  # in one step, Starlette would block the loop
                request._form = await Request(self._scope, BodyChannel(body)).form(**limits)
            return await request.form(**limits)
        if not isinstance(self._data, dict):
            raise SerializationError(f"request data of type {_kind(self._data)} is not a form; pass a dict")
        return self._data

    async def _close_form(self) -> None:
        if self._body is not None:
            await self._request.close()

    @property
    def _request(self) -> Request:
        # Most calls read only the data. So Starlette's request is built when user code reads another attribute.
        if self._web is None:
            self._web = Request(self._scope, BodyChannel(b"" if self._body is None else self._body, self._caller))
        return self._web

    def __getstate__(self) -> tuple[Any, ...]:
        body = self._body
        if body is not None and not isinstance(body, bytes):
            body = self.data
            if body is None:
                raise SerializationError("the request's body is a stream; first `await request.body()`")
        return self._data, self._kwargs, self._scope, body

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._data, self._kwargs, self._scope, self._body = state
        self._query = None
        self._web = None
        self._caller = None
        self._channel = None

    def __repr__(self) -> str:
        content = _kind(self._data) if self._body is None else "body"
        return f"<ServeRequest {self.method} {self._scope['path']} with {content}>"


def _raw_headers(headers: Mapping[str, str] | RawHeaders) -> list[tuple[bytes, bytes]]:
    if isinstance(headers, Mapping):
        # `items` of Starlette's Headers has each value of a repeated name, so no value is lost.
        return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return [(name.lower(), value) for name, value in headers]


def _as_bytes(data: Any) -> bytes:
    if data is None:
        return b""
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise SerializationError(f"the request's data cannot be streamed: {_kind(data)}; use request.data")


def _kind(value: object) -> str:
    return type(value).__qualname__
