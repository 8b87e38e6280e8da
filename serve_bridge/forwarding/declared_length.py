"""The body of an answer, counted against the Content-Length that its backend has declared.

Rule 1: a server keeps the connection of an answer that ends early or late, and takes what follows for the next answer.
        So a body of another length ends with an exception, and every server closes the connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from serve_bridge.forwarding.request import Forwarded
from serve_bridge.http.answers import AnswerBroken, is_bodyless
from serve_bridge.http.headers import HeaderList, length_of


class DeclaredLength:
    """Counts one body down from its declared length.

    Args:
        length: Declared bytes; None: any number is right.
    """

    __slots__ = ("_is_long", "_left")

    def __init__(self, length: int | None) -> None:
        self._left = length
        self._is_long = False

    def take(self, piece: bytes) -> bytes:
        """Return what of *piece* is within the length.

        Raises:
            AnswerBroken: The body is longer, and all of the length has been taken.
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
        """Check that the body may end here.

        Raises:
            AnswerBroken: It is shorter or longer.
        """
        if self._is_long:
            raise AnswerBroken("the answer is longer than its Content-Length")
        if self._left:
            raise AnswerBroken(f"the answer is {self._left} bytes shorter than its Content-Length")


def declared_length(request: Forwarded, status: int, headers: HeaderList) -> int | None:
    """Return the declared length of the body that follows the head of an answer; None: no body follows, or any."""
    if request.has_no_answer_body or is_bodyless(status):
        return None
    return length_of(headers)


class WholeBody(Iterator[bytes]):
    """A body of another length than declared, as an iterator that breaks off."""

    def __init__(self, body: bytes, length: int) -> None:
        self._pieces = iter((body,))
        self._length = DeclaredLength(length)

    def __next__(self) -> bytes:
        piece = next(self._pieces, None)
        if piece is None:
            self._length.end()
            raise StopIteration
        return self._length.take(piece)

    def close(self) -> None:
        """Do nothing: all of it is here."""


class AsyncWholeBody(AsyncIterator[bytes]):
    """Same as `WholeBody`, on a loop."""

    def __init__(self, body: bytes, length: int) -> None:
        self._body = WholeBody(body, length)

    async def __anext__(self) -> bytes:
        piece: Any = next(self._body, None)
        if piece is None:
            raise StopAsyncIteration
        return bytes(piece)

    async def aclose(self) -> None:
        """Do nothing: all of it is here."""
