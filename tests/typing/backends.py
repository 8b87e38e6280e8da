"""Backends of each shape that typed handles know, for the files beside this one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from starlette.requests import Request

import serve_bridge as serve
from serve_bridge import ServeRequest


@serve.backend("score")
def score(request: ServeRequest[str]) -> float:
    """Take a str."""
    return float(len(request.data))


@serve.backend("score_async")
async def score_async(request: ServeRequest[str]) -> float:
    """Take a str, in an `async def`."""
    return float(len(request.data))


@serve.backend
def greet(request: ServeRequest) -> str:
    """Take a request whose data can be anything."""
    return str(request.data)


@serve.backend
def shout(request: Any) -> str:
    """Take a request without a type."""
    return str(request.data)


@serve.backend
def page(request: Request) -> str:
    """Take Starlette's request."""
    return request.url.path


@serve.backend
async def page_async(request: Request) -> str:
    """Take Starlette's request, in an `async def`."""
    return request.url.path


@serve.backend
def either(request: Request | ServeRequest[int]) -> str:
    """Take a request from the proxy or from Python."""
    return type(request).__name__


@serve.backend
def words(request: ServeRequest[str]) -> Iterator[str]:
    """Yield."""
    yield from request.data.split()


@serve.backend
async def words_async(request: ServeRequest[str]) -> AsyncIterator[str]:
    """Yield, in an `async def`."""
    for word in request.data.split():
        yield word


@serve.backend(max_batch_size=8)
@serve.accept_batch
def lengths(requests: list[ServeRequest[str]]) -> list[int]:
    """Take a batch."""
    return [len(request.data) for request in requests]


@serve.backend(max_batch_size=8)
@serve.accept_batch
async def lengths_async(requests: list[ServeRequest[str]]) -> tuple[int, ...]:
    """Take a batch, in an `async def`."""
    return tuple(len(request.data) for request in requests)


@serve.backend
def ping() -> str:
    """Take nothing."""
    return "pong"


@serve.backend("mood", init_args=["model"], num_replicas=2)
class Mood:
    """A class with methods of each shape."""

    def __init__(self, path: str) -> None:
        """Keep *path*."""
        self.path = path

    async def __call__(self, request: ServeRequest[str]) -> float:
        """Take a str."""
        return float(len(request.data))

    def count(self, by: int, times: int = 2) -> int:
        """Take data."""
        return by * times

    async def count_async(self, by: int, *, times: int = 2) -> int:
        """Take data, in an `async def`."""
        return by * times

    def explain(self, request: ServeRequest[str]) -> str:
        """Take a request."""
        return request.data

    def show(self, request: Request) -> str:
        """Take Starlette's request."""
        return request.url.path

    def each(self, text: str) -> Iterator[int]:
        """Yield."""
        yield len(text)

    async def each_async(self, text: str) -> AsyncIterator[int]:
        """Yield, in an `async def`."""
        yield len(text)

    @serve.accept_batch
    def lengths(self, requests: list[ServeRequest[str]]) -> list[int]:
        """Take a batch."""
        return [len(request.data) for request in requests]


@serve.backend
class Plain:
    """A class whose `__call__` is no `async def`."""

    def __call__(self, request: ServeRequest[str]) -> float:
        """Take a str."""
        return float(len(request.data))


@serve.backend
class Batched:
    """A class whose `__call__` takes batches."""

    @serve.accept_batch
    def __call__(self, requests: list[ServeRequest[str]]) -> list[float]:
        """Take a batch."""
        return [float(len(request.data)) for request in requests]


@serve.backend
class Methods:
    """A class without a `__call__`."""

    def count(self, by: int) -> int:
        """Take data."""
        return by


@serve.batch(max_batch_size=8)
async def sizes(texts: list[str]) -> list[int]:
    """Take several items at once."""
    return [len(text) for text in texts]


class Sizes:
    """A class with a batched method."""

    @serve.batch()
    async def of(self, texts: list[str]) -> list[int]:
        """Take several items at once."""
        return [len(text) for text in texts]
