"""The result of `request.form()`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any


class FormReading:
    """A form to be read: await it, or use it as an asynchronous context manager, which closes the files."""

    __slots__ = ("_close", "_read")

    def __init__(self, read: Callable[[], Coroutine[Any, Any, Any]], close: Callable[[], Awaitable[None]]) -> None:
        self._read = read
        self._close = close

    def __await__(self) -> Generator[Any, None, Any]:
        return self._read().__await__()

    async def __aenter__(self) -> Any:
        return await self

    async def __aexit__(self, *_: object) -> None:
        await self._close()
