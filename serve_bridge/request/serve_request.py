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
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from itertools import chain
from time import monotonic
from typing import Any, Final, Protocol, TypeAlias
from urllib.parse import urlencode

from starlette.datastructures import URL, Address, Headers, ImmutableMultiDict, State
from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from serve_bridge.context import valid_request_id
from serve_bridge.errors import SerializationError
from serve_bridge.http.body_length import BODY_LENGTH, body_length
from serve_bridge.request.json_body import parse_json

__all__ = [
    "REQUEST_ID",
    "TURN_S",
    "Caller",
    "FrozenRequest",
    "QueryValues",
    "RawHeaders",
    "ServeRequest",
    "body_in_thread",
    "body_on_loop",
    "cached_body",
    "web_request_in",
]

RawHeaders: TypeAlias = Iterable[tuple[bytes, bytes]]

REQUEST_ID: Final = b"x-request-id"
PIECE_BYTES: Final = 64 * 1024
"""Upper limit in bytes for a message of ASGI `receive` that is a part of a longer body which is here."""
TURN_S: Final = 0.002
"""Time in seconds after which a body that is being read lets other work of the loop run before its next piece. The
reader, such as the parser of a form, may take long for each piece.
"""
_JSON_TYPES: Final = (dict, list, str, int, float, bool, type(None))
_PLAIN_TYPES: Final = frozenset((str, bytes, int, float, bool, type(None)))
_DEEPEST: Final = 20  # levels of lists and dicts in a request's state; what is deeper, or a cycle, stays behind
_UNREAD: Final = "the request's body has not been read; `await request.body()` before you pass it on"
_TRAVELLING: Final = (
    *("http_version", "method", "scheme", "path", "raw_path", "query_string"),
    *("root_path", "app_root_path", "client", "server"),
)
"""Keys of a scope that mean the same in another process; application, router and session do not."""


class QueryValues(ImmutableMultiDict[str, Any]):
    """Query parameters that keep their Python types; a list or tuple counts as a repeated parameter."""

    def getlist(self, key: str) -> list[Any]:
        """Return every value given for *key*; empty when there is none."""
        return [value for name, value in self.multi_items() if name == key]

    def multi_items(self) -> list[tuple[str, Any]]:
        """Return all pairs in order, one for each item of a list or tuple."""
        pairs: list[tuple[str, Any]] = []
        for name, value in self._list:
            pairs.extend((name, item) for item in (value if isinstance(value, list | tuple) else (value,)))
        return pairs

    def __str__(self) -> str:
        return urlencode(self.multi_items())


class Caller(Protocol):
    """The peer that waits for the answer to a request."""

    def may_send(self) -> bool:
        """Return whether it still does."""

    async def gone(self) -> None:
        """Wait until it does not any more."""


class ServeRequest(Mapping[str, Any]):
    """One request as user code sees it.

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
    __eq__ = object.__eq__
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
    def data(self) -> Any:
        """The object passed to the handle; of a forwarded request the raw body once it is read, else None."""
        if self._body is None:
            return self._data
        return self._body if isinstance(self._body, bytes) else getattr(self._web, "_body", None)

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

    def url_for(self, name: str, /, **path_params: Any) -> URL:
        """Raise: the routes are the web application's.

        Raises:
            RuntimeError: Always, unless user code has put a router into the scope.
        """
        if not (self._scope.get("router") or self._scope.get("app")):
            raise RuntimeError(
                "request.url_for() has no routes here: they stay with the web application. Build the URL there and "
                "pass it on in the route's `context`, or begin with request.base_url"
            )
        return self._request.url_for(name, **path_params)

    @property
    def app(self) -> Any:
        """The web application, which is not here.

        Raises:
            AttributeError: Always, unless user code has put one into the scope.
        """
        if self._scope.get("app") is None:
            raise AttributeError(
                "request.app is not here: the web application runs in another process; "
                "the backend's own objects belong to its class"
            )
        return self._scope["app"]

    @property
    def session(self) -> Any:
        """The session, which stays with the web application.

        Raises:
            AttributeError: Always, unless user code has put one into the scope.
        """
        return self._of_the_application("session", "session.tenant")

    @property
    def user(self) -> Any:
        """The user, who stays with the web application.

        Raises:
            AttributeError: Always, unless user code has put one into the scope.
        """
        return self._of_the_application("user", "user.pk")

    @property
    def auth(self) -> Any:
        """The credentials, which stay with the web application.

        Raises:
            AttributeError: Always, unless user code has put them into the scope.
        """
        return self._of_the_application("auth", "auth.scopes")

    def _of_the_application(self, name: str, example: str) -> Any:
        if name not in self._scope:
            raise AttributeError(
                f"request.{name} stays with the web application. Name what the backend needs of it in the route's "
                f"`context`, such as {{'mine': '{example}'}}, and read request.state.mine"
            )
        return self._scope[name]

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
            self._channel = _Receive(_as_bytes(self._data), self._caller)
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
        return FormReading(self, limits)

    async def _read_form(self, limits: Mapping[str, Any]) -> Any:
        if self._body is not None:
            request = self._request
            body = getattr(request, "_body", b"")
            if len(body) > PIECE_BYTES and request._form is None:  # Starlette would parse it in one step
                request._form = await Request(self._scope, _Receive(body)).form(**limits)
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
            self._web = Request(self._scope, _Receive(b"" if self._body is None else self._body, self._caller))
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


class FormReading:
    """A form that is being asked for: awaitable, or an asynchronous context manager that closes its files."""

    __slots__ = ("_limits", "_request")

    def __init__(self, request: ServeRequest, limits: Mapping[str, Any]) -> None:
        self._request = request
        self._limits = limits

    def __await__(self) -> Generator[Any, None, Any]:
        return self._request._read_form(self._limits).__await__()

    async def __aenter__(self) -> Any:
        return await self

    async def __aexit__(self, *_: object) -> None:
        await self._request._close_form()


@dataclass(frozen=True, slots=True)
class FrozenRequest:
    """A Starlette request on its way to another process: what its scope says, and its whole body.

    Attributes:
        scope: The part of the ASGI scope that makes sense elsewhere; of its state only text, bytes, numbers,
            bool, None, and lists, tuples and dicts of these.
        body: The whole body.
    """

    scope: dict[str, Any]
    body: bytes

    @classmethod
    def of(cls, request: Request[Any], body: bytes) -> FrozenRequest:
        """Return *request* with *body*, which is all of its body, ready to be pickled."""
        scope = {key: request.scope[key] for key in _TRAVELLING if key in request.scope}
        scope[BODY_LENGTH] = len(body)
        scope["headers"] = [(bytes(name), bytes(value)) for name, value in request.scope["headers"]]
        scope["path_params"] = dict(request.scope.get("path_params") or {})
        state = request.scope.get("state") or {}
        scope["state"] = {name: value for name, value in state.items() if _is_plain(value)}
        return cls(scope, body)

    @property
    def request_id(self) -> str | None:
        """The id that the request came with; None if it has no valid one."""
        given = next((value for name, value in self.scope["headers"] if name == REQUEST_ID), b"")
        return valid_request_id(given.decode("latin-1"))

    def thaw(self, request_id: str) -> Request:
        """Return a request that reads like the original; each call returns another, with its own state.

        Its header X-Request-Id is *request_id*, the id of the call that it came with.
        """
        headers = [pair for pair in self.scope["headers"] if pair[0] != REQUEST_ID]
        scope = {
            **self.scope,
            "headers": [*headers, (REQUEST_ID, request_id.encode())],
            "type": "http",
            "app": None,  # its presence makes Starlette answer a malformed form with 400
            "path_params": dict(self.scope["path_params"]),
            "state": dict(self.scope["state"]),
        }
        return Request(scope, _Receive(self.body, repeats=True))

    def __repr__(self) -> str:
        return f"<FrozenRequest {self.scope['method']} {self.scope['path']} with {len(self.body)} bytes>"


def web_request_in(data: object, request_id: str, caller: Caller | None) -> Request | ServeRequest | None:
    """Return the web request that a call has passed on as *data*, with the id of that call; None: *data* is a value.

    A request from the proxy arrives as Starlette's `Request`, and one from an adapter as a `ServeRequest`.
    """
    if type(data) is FrozenRequest:
        return data.thaw(request_id)
    if type(data) is ServeRequest and data._body is not None:
        headers = [pair for pair in data._scope["headers"] if pair[0] != REQUEST_ID]
        scope = {**data._scope, "headers": [*headers, (REQUEST_ID, request_id.encode())]}
        return ServeRequest.of_scope(scope, data._body, caller)
    return None


def cached_body(request: Request[Any]) -> bytes | None:
    """Return the whole body if that takes no waiting: it is here, or there is none; else None."""
    body: bytes | None = getattr(request, "_body", None)
    if body is not None:
        return body
    if body_length(request.scope) == 0:
        return b""
    whole: bytes | None = getattr(request.receive, "whole", None)
    return None if _is_begun(request) else whole


async def body_on_loop(request: Request[Any]) -> bytes:
    """Return the whole body, on the loop that receives it.

    Raises:
        SerializationError: A part of it was streamed before, so that it cannot be passed on whole.
    """
    if not hasattr(request, "_body") and _is_begun(request):
        raise SerializationError(_UNREAD)
    return await request.body()


def body_in_thread(request: Request[Any]) -> bytes:
    """Return the whole body, from a thread that runs no loop.

    What was read already is not read again. What is still on its way is awaited on the loop that receives it.

    Raises:
        SerializationError: No other thread's loop can be asked for the body, or it was streamed before.
    """
    body = cached_body(request)
    if body is not None:
        return body
    loop: asyncio.AbstractEventLoop | None = getattr(request.receive, "loop", None)
    if loop is None or _is_begun(request) or asyncio._get_running_loop() is not None:
        raise SerializationError(_UNREAD)
    return asyncio.run_coroutine_threadsafe(request.body(), loop).result()


def _is_begun(request: Request[Any]) -> bool:
    """Return whether something of the body was taken and not kept."""
    return request._stream_consumed or getattr(request.receive, "begun", False)


def _is_plain(value: object, depth: int = 0) -> bool:
    if type(value) in _PLAIN_TYPES:
        return True
    parts: Iterable[object]
    if type(value) is dict:
        parts = chain(value, value.values())
    elif type(value) is list or type(value) is tuple:
        parts = value
    else:
        return False
    return depth < _DEEPEST and all(_is_plain(part, depth + 1) for part in parts)


def _raw_headers(headers: Mapping[str, str] | RawHeaders) -> list[tuple[bytes, bytes]]:
    if isinstance(headers, Mapping):
        # `items` of Starlette's Headers repeats a repeated name, so none is lost.
        return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return [(name.lower(), value) for name, value in headers]


class _Receive:
    """The ASGI channel from which Starlette reads *body*; after it comes that *caller* has left.

    With *repeats* it gives the whole body whenever it is asked.

    Attributes:
        loop: The loop on which it is called; None: any.
        whole: The whole body; None: it comes in pieces.
        begun: Whether something of the body was taken.
    """

    __slots__ = ("_caller", "_chunks", "_ended", "_repeats", "begun", "loop", "whole")

    def __init__(
        self, body: bytes | AsyncIterable[bytes], caller: Caller | None = None, *, repeats: bool = False
    ) -> None:
        self.begun = False
        self.whole = body if isinstance(body, bytes) else None
        self.loop: asyncio.AbstractEventLoop | None = getattr(body, "loop", None)
        if isinstance(body, bytes):
            self._chunks = None if len(body) <= PIECE_BYTES else _pieces(body)
        else:
            self._chunks = aiter(body)
        self._caller = caller
        self._repeats = repeats
        self._ended = False

    async def __call__(self) -> Message:
        """Return the next message."""
        if self._ended:
            await (asyncio.get_running_loop().create_future() if self._caller is None else self._caller.gone())
            return {"type": "http.disconnect"}
        self.begun = True
        if self._chunks is None:
            self._ended = not self._repeats
            return {"type": "http.request", "body": self.whole, "more_body": False}
        try:
            return {"type": "http.request", "body": await anext(self._chunks), "more_body": True}
        except StopAsyncIteration:
            self._ended = not self._repeats
            if self._repeats and self.whole is not None:
                self._chunks = _pieces(self.whole)
            return {"type": "http.request", "body": b"", "more_body": False}


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    """Yield *body* in pieces."""
    turn_began = monotonic()
    for start in range(0, len(body), PIECE_BYTES):
        yield body[start : start + PIECE_BYTES]
        if monotonic() - turn_began > TURN_S:
            await asyncio.sleep(0)
            turn_began = monotonic()


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
