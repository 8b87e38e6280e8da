"""The functions that return handles. `Client` has the same methods, with the same docstrings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, overload

from starlette.requests import Request

from serve_bridge.client.backend_shapes import BackendClass, BackendFunction
from serve_bridge.client.current import current_client
from serve_bridge.client.handle import AsyncHandle, Data, Handle, Value
from serve_bridge.request.serve_request import ServeRequest


@overload
def get_handle(endpoint: str, missing_ok: bool = False, sync: Literal[True] = True) -> Handle: ...


@overload
def get_handle(endpoint: str, missing_ok: bool = False, *, sync: Literal[False]) -> AsyncHandle: ...


@overload
def get_handle(endpoint: str, missing_ok: bool, sync: Literal[False]) -> AsyncHandle: ...


@overload
def get_handle(endpoint: str, missing_ok: bool = False, sync: bool = True) -> Handle: ...


def get_handle(endpoint: str, missing_ok: bool = False, sync: bool = True) -> Handle:
    """Return a handle that calls *endpoint*.

    Args:
        endpoint: The endpoint's name.
        missing_ok: Return a handle for an unknown endpoint too. Its calls raise `EndpointNotFound` until the
            endpoint exists.
        sync: False: return an `AsyncHandle`, whose `remote` is awaited.

    Raises:
        EndpointNotFound: The endpoint does not exist, and *missing_ok* is not set. It is a KeyError.
        NotConnected: No instance answers.
        InstanceClosed: The instance was shut down.
    """
    return current_client().get_handle(endpoint, missing_ok, sync)


@overload
def handle(backend: type[BackendClass[[ServeRequest[Data]], Awaitable[Value]]], /) -> Handle[[Data], Value]: ...


@overload
def handle(backend: type[BackendClass[[ServeRequest[Data]], Value]], /) -> Handle[[Data], Value]: ...


@overload
def handle(backend: type[BackendClass[[Request], Awaitable[Value]]], /) -> Handle[[Any], Value]: ...


@overload
def handle(backend: type[BackendClass[[Request], Value]], /) -> Handle[[Any], Value]: ...


@overload
def handle(
    backend: type[BackendClass[[list[ServeRequest[Data]]], Awaitable[Sequence[Value]]]], /
) -> Handle[[Data], Value]: ...


@overload
def handle(backend: type[BackendClass[[list[ServeRequest[Data]]], Sequence[Value]]], /) -> Handle[[Data], Value]: ...


@overload
def handle(backend: type[Any], /) -> Handle: ...


@overload
def handle(backend: Callable[[ServeRequest[Data]], Awaitable[Value]], /) -> Handle[[Data], Value]: ...


@overload
def handle(backend: Callable[[ServeRequest[Data]], Value], /) -> Handle[[Data], Value]: ...


@overload
def handle(backend: Callable[[Request], Awaitable[Value]], /) -> Handle[[Any], Value]: ...


@overload
def handle(backend: Callable[[Request], Value], /) -> Handle[[Any], Value]: ...


@overload
def handle(backend: Callable[[list[ServeRequest[Data]]], Awaitable[Sequence[Value]]], /) -> Handle[[Data], Value]: ...


@overload
def handle(backend: Callable[[list[ServeRequest[Data]]], Sequence[Value]], /) -> Handle[[Data], Value]: ...


@overload
def handle(backend: BackendFunction[Awaitable[Value]], /) -> Handle[[], Value]: ...


@overload
def handle(backend: BackendFunction[Value], /) -> Handle[[], Value]: ...


def handle(backend: Any, /) -> Handle[..., Any]:
    """Return a typed handle of a declared backend: it calls the backend's endpoint.

    ::

        @serve.backend("mood")
        class Mood:
            def __call__(self, request: serve.ServeRequest[str]) -> float: ...
            def count(self, by: int = 1) -> int: ...

        serve.handle(Mood).call("a fine day")  # a float
        serve.handle(Mood).method(Mood.count).call(5)  # an int

    A backend takes a request, so a call takes one value: the request's `data`. `ServeRequest[str]` gives its type.
    The result has the type that the backend returns. Of an `async def` it is the awaited type, and of batched code
    the type of one item.

    Args:
        backend: A function or class with `@serve.backend(...)`. If several backends share the endpoint, its traffic
            decides which of them answers a call.

    Raises:
        TypeError: *backend* is not declared.
        ConfigError: *backend* is an application, which is called over HTTP only.
        EndpointNotFound: The endpoint does not exist. It is a KeyError.
        NotConnected: No instance answers.
        InstanceClosed: The instance was shut down.
    """
    return current_client().handle(backend)
