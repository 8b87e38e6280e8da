"""Declared backends that typed handles call. Small to import: every replica of a Ray cluster does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import serve_bridge as serve
from serve_bridge import ServeRequest


@serve.backend("typed-length")
def length(request: ServeRequest[str]) -> int:
    """Return how long the text is."""
    return len(request.data)


@serve.backend("typed-words", endpoint="typed-split")
async def words(request: ServeRequest[str]) -> AsyncIterator[str]:
    """Yield the words of the text."""
    for word in request.data.split():
        yield word


@serve.backend("typed-doubled", max_batch_size=4)
@serve.accept_batch
def doubled(requests: list[ServeRequest[int]]) -> list[int]:
    """Return twice each number."""
    return [2 * request.data for request in requests]


@serve.backend("typed-ping")
def ping() -> str:
    """Take nothing."""
    return "pong"


@serve.backend("typed-shop", init_args=["shop"])
class Shop:
    """A class with methods of several shapes."""

    def __init__(self, name: str) -> None:
        """Keep *name*."""
        self.name = name

    async def __call__(self, request: ServeRequest[str]) -> str:
        """Return the shop's name and the text."""
        return f"{self.name}: {request.data}"

    def price(self, item: str, count: int = 1, *, currency: str = "EUR") -> str:
        """Return the price of some items."""
        return f"{count} x {item} in {currency}"

    def items(self, count: int) -> Iterator[int]:
        """Yield numbers."""
        yield from range(count)

    def explain(self, request: ServeRequest[str]) -> dict[str, Any]:
        """Return what a request has."""
        return {"data": request.data, **request.query_params}

    @staticmethod
    def twice(number: int) -> int:
        """Return twice the number."""
        return 2 * number

    @classmethod
    def kind(cls, suffix: str) -> str:
        """Return the name of the class."""
        return cls.__name__ + suffix

    def two(self, first: int, second: int, /) -> int:
        """Take what no call can set."""
        return first + second


application = serve.backend("typed-application")(serve.asgi_app("tests.behaviour.support.typed_backends:_application"))


async def _application(scope: Any, receive: Any, send: Any) -> None:
    """Answer nothing."""
