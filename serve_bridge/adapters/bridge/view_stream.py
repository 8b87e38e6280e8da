"""The streamed answer of a view: its code runs after the view has returned, and still for the request of the view."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any

from serve_bridge.context import in_request


class ViewStream:
    """The pieces of an answer in a thread. The code of each piece has the id of the request."""

    def __init__(self, pieces: Iterable[Any], request_id: str) -> None:
        self._all = pieces
        self._request_id = request_id
        self._pieces: Iterator[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        with in_request(self._request_id):
            if self._pieces is None:
                self._pieces = iter(self._all)
            return next(self._pieces)

    def close(self) -> None:
        """Close the pieces, if they can be closed."""
        close = getattr(self._all, "close", None)
        if close is not None:
            with in_request(self._request_id):
                close()


async def async_view_stream(pieces: AsyncIterable[Any], request_id: str) -> AsyncIterator[Any]:
    """Iterate the *pieces* of an answer on a loop. The code of each piece has the id of the request."""
    iterator = aiter(pieces)
    while True:
        with in_request(request_id):
            try:
                piece = await anext(iterator)
            except StopAsyncIteration:
                return
        yield piece
