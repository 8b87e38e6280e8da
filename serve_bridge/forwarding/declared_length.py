"""The body of an answer, counted against the declared Content-Length.

Rule 1: If a body has another length, its iterator raises `AnswerBroken`, and the server closes the connection.
    Otherwise a server would keep the connection and take the surplus bytes for the next answer.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator

from serve_bridge.forwarding.request import ForwardedRequest
from serve_bridge.http.answers import AnswerBroken, is_bodyless
from serve_bridge.http.headers import HeaderList, length_of


class DeclaredLength:
    """Counts the bytes of one body down from its declared length.

    Args:
        length: Declared bytes; None: the body may have any length.
    """

    __slots__ = ("_is_long", "_left")

    def __init__(self, length: int | None) -> None:
        self._left = length
        self._is_long = False

    def take(self, piece: bytes) -> bytes:
        """Return the part of *piece* within the declared length.

        Raises:
            AnswerBroken: The body is longer, and all declared bytes were taken before.
        """
        if self._left is None:
            return piece
        if len(piece) > self._left:
            self._is_long = True
            if not self._left:
                self.end()
            piece = piece[: self._left]
        self._left -= len(piece)
        return piece

    def end(self) -> None:
        """Check that the body has its declared length at its end.

        Raises:
            AnswerBroken: The body is shorter or longer.
        """
        if self._is_long:
            raise AnswerBroken("the answer is longer than its Content-Length")
        if self._left:
            raise AnswerBroken(f"the answer is {self._left} bytes shorter than its Content-Length")


def declared_length(request: ForwardedRequest, status: int, headers: HeaderList) -> int | None:
    """Return the declared length of the body after the head of an answer.

    None: no body follows, or a body of any length.
    """
    if request.has_no_answer_body or is_bodyless(status):
        return None
    return length_of(headers)


class BlockingBody(Iterator[bytes]):
    """The body of an answer in a web worker's thread. WSGI servers close it in every case."""

    def __init__(self, length: int | None) -> None:
        self._length = DeclaredLength(length)

    def __next__(self) -> bytes:
        try:
            piece = self._next()
            if piece is not None:
                return self._length.take(piece)
            self._length.end()
        except AnswerBroken:
            self.close()
            raise
        raise StopIteration

    def _next(self) -> bytes | None:
        """Return the next piece; None after the last.

        Raises:
            AnswerBroken: The rest of the body will not arrive.
        """
        raise NotImplementedError  # abstract

    def close(self) -> None:
        """Drop the rest of the body."""


class WholeBody(BlockingBody):
    """A whole body with another length than declared."""

    def __init__(self, body: bytes, length: int) -> None:
        super().__init__(length)
        self._body: bytes | None = body

    def _next(self) -> bytes | None:
        body, self._body = self._body, None
        return body


class LoopBody(AsyncIterator[bytes]):
    """The body of an answer on an event loop. It must be closed in every case."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], length: int | None, close: Callable[[], None]) -> None:
        """Iterate *pieces*, whose declared length is *length*; call *close* at the end."""
        self._pieces = pieces
        self._length = DeclaredLength(length)
        self._close = close

    async def __anext__(self) -> bytes:
        try:
            piece = await anext(self._pieces, None)
            if piece is not None:
                return self._length.take(piece)
            self._length.end()
            raise StopAsyncIteration
        except BaseException:
            self._close()
            raise

    async def aclose(self) -> None:
        """Drop the rest of the body."""
        await self._pieces.aclose()
        self._close()
