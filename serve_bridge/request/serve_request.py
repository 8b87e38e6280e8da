"""What a backend receives: `ServeRequest`, which reads like a `starlette.requests.Request`.

Rule 1: a request is around a Python value (a handle call), or around a web request that an adapter forwarded.
Rule 2: a forwarded body is read by Starlette, so limits, caching and errors are the ones its users know.
Rule 3: `ServeRequest` is no subclass of Starlette's `Request`: `isinstance` tells web from Python. Whatever is public
    there is here too: it works, or it is an error that says why not and what to do.
Rule 4: a web request that is passed on with a handle arrives as what it was, and not inside another request. The
    `Request` of Starlette travels as a `FrozenRequest`.
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

    As a mapping it is its ASGI scope, as Starlette's `Request` is.

    Args:
        data: The Python value of a handle call; not used with *body*.
        kwargs: Keyword arguments of the call; they are the query parameters, after those of *query_string*.
        method: HTTP method.
        headers: A mapping of names to values, or raw lower-case pairs.
        path: Path without the query, below *root_path* or including it, as in an ASGI scope.
        path_params: Typed parameters of the matched route.
        query_string: Raw query of a forwarded request.
        body: The forwarded body, bytes or an asynchronous iterator of bytes. None: a request around *data*.
        client: Host and port of the peer.
        scheme: "http" or "https".
        server: Host and port of the server, for `url` where there is no Host header.
        root_path: Where the application is mounted.
        state: Context of the caller, in `request.state`.
        caller: The peer that waits for the answer; None: it cannot leave.
    """

    __slots__ = ("_body", "_caller", "_channel", "_data", "_kwargs", "_query", "_scope", "_web")
    _query: QueryValues | None
    _web: Request | None
    _caller: Caller | None
    _channel: Receive | None
    _scope: Scope

    # As in Starlette: a request equals itself only.
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
            "app": None,  # its presence makes Starlette answer a malformed form with 400
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
        """Return the forwarded request that *scope* describes, which is an HTTP request's and from now on its own."""
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
        """The ASGI scope; of a handle call one that describes it as an HTTP request."""
        return self._scope

    @property
    def data(self) -> Data:
        """The object that was passed to the handle.

        Of a forwarded request it is the raw body as bytes, once that has been read; before, it is None.
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
        """The headers, case-insensitive."""
        return self._request.headers

    @property
    def query_params(self) -> QueryValues:
        """The query of a forwarded request as strings, then the call's keyword arguments as passed."""
        if self._query is None:
            self._query = QueryValues([*self._request.query_params.multi_items(), *self._kwargs.items()])
        return self._query

    @property
    def url(self) -> URL:
        """The URL as the caller sent it; of a handle call only the path."""
        return self._request.url

    @property
    def base_url(self) -> URL:
        """The URL of the application's root; of a handle call only the path."""
        return self._request.base_url

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies by name."""
        return self._request.cookies

    @property
    def client(self) -> Address | None:
        """Host and port of the peer, if there is one."""
        return self._request.client

    @property
    def state(self) -> State:
        """The caller's context, and room for user code to keep something of its own."""
        return self._request.state

    @property
    def receive(self) -> Receive:
        """The ASGI channel of the body: it ends with `http.disconnect` once the caller has left.

        Raises:
            SerializationError: The value passed to the handle is neither bytes, str nor None.
        """
        if self._body is not None:
            return self._request.receive
        if self._channel is None:
            self._channel = BodyChannel(_as_bytes(self._data), self._caller)
        return self._channel

    async def is_disconnected(self) -> bool:
        """Return whether the caller has left; False where it cannot, as that of a call over Ray.

        Code that waits anywhere is cancelled as well when its caller leaves, so this is for loops that do not.
        """
        await asyncio.sleep(0)  # it is the loop that hears from the caller
        return self._caller is not None and not self._caller.may_send()

    async def send_push_promise(self, path: str) -> None:
        """Do nothing, as Starlette does where the server cannot push."""

    async def send_early_hints(self, link: str, /, *additional_links: str) -> None:
        """Do nothing, as Starlette does where the server cannot send them."""

    async def close(self) -> None:
        """Close the files of the form, if it was read."""
        await self._close_form()

    async def body(self) -> Any:
        """Return what was passed to the handle, None if nothing, or the bytes of a forwarded request."""
        return self._data if self._body is None else await self._request.body()

    async def hold(self) -> None:
        """Receive a forwarded body, so that the request can be passed on.

        Raises:
            SerializationError: A part of it was streamed before.
        """
        if self._body is not None:
            await body_on_loop(self._request)

    def hold_in_thread(self) -> None:
        """Do as `hold`, from a thread that runs no loop.

        Raises:
            SerializationError: The body is not here, and this thread cannot wait for it.
        """
        if self._body is not None:
            self._request._body = body_in_thread(self._request)

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the body in chunks, and an empty one at its end.

        Raises:
            SerializationError: The value passed to the handle is neither bytes, str nor None.
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
            SerializationError: The value passed to the handle is none that JSON knows.
            ValueError: A forwarded body is no JSON.
        """
        if self._body is not None:
            request = self._request
            if not hasattr(request, "_json"):  # where Starlette keeps it
                request._json = await parse_json(await request.body())
            return request._json
        if not isinstance(self._data, _JSON_TYPES):
            raise SerializationError(f"request data of type {_kind(self._data)} is no JSON; use request.data")
        return self._data

    def form(self, **limits: Any) -> FormReading:
        """Read the form; use it with `await` or `async with`.

        Args:
            limits: `max_files`, `max_fields`, `max_part_size` as Starlette has them; a handle call has none.

        Raises:
            SerializationError: The value passed to the handle is no dict.
        """
        return FormReading(partial(self._read_form, limits), self._close_form)

    async def _read_form(self, limits: Mapping[str, Any]) -> Any:
        if self._body is not None:
            request = self._request
            body = getattr(request, "_body", b"")
            if len(body) > PIECE_BYTES and request._form is None:  # Starlette would parse it in one step
                request._form = await Request(self._scope, BodyChannel(body)).form(**limits)
            return await request.form(**limits)
        if not isinstance(self._data, dict):
            raise SerializationError(f"request data of type {_kind(self._data)} is no form; pass a dict")
        return self._data

    async def _close_form(self) -> None:
        if self._body is not None:
            await self._request.close()

    @property
    def _request(self) -> Request:
        # Most calls read only the data, so Starlette's request is built when something else is asked for.
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
        # `items` of Starlette's Headers repeats a repeated name, so none is lost.
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
