"""The memory which a process uses for slow clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import pytest

from serve_bridge.errors import DeadlineExceeded
from serve_bridge.forwarding.allowance import MAX_KEPT_BYTES, KeptBytes
from serve_bridge.forwarding.refusals import UploadBroken
from serve_bridge.forwarding.request import ForwardedRequest
from serve_bridge.wire.heads import INLINE_BODY_BYTES

INLINE = INLINE_BODY_BYTES


class Room:
    """An allowance with a limit."""

    def __init__(self, limit: int) -> None:
        self.left = limit

    def take(self, size: int) -> bool:
        """Take *size* bytes, if there is room for them."""
        fits = size <= self.left
        self.left -= size if fits else 0
        return fits

    def give_back(self, size: int) -> None:
        """Give *size* bytes back."""
        self.left += size


def test_what_is_kept_is_given_back_once() -> None:
    """A second `give_back` does nothing."""
    room = Room(100)
    kept = KeptBytes(room)
    assert kept.take(60)
    assert kept.take(40)
    assert not kept.take(1)
    assert room.left == 0
    kept.give_back()
    kept.give_back()
    assert room.left == 100


def test_no_request_keeps_more_than_its_limit() -> None:
    """The limit holds even if the allowance has room."""
    kept = KeptBytes(Room(10 * MAX_KEPT_BYTES))
    assert kept.take(MAX_KEPT_BYTES)
    assert not kept.take(1)


def request_with(
    messages: list[Any], *fields: tuple[bytes, bytes], timeout_s: float = 10.0
) -> tuple[ForwardedRequest, Any]:
    """Return a request, and a `receive` with its *messages*."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "query_string": b"",
        "http_version": "1.1",
        "headers": list(fields) or [(b"transfer-encoding", b"chunked")],
    }
    given = iter(messages)

    async def receive() -> Any:
        message = next(given, None)
        if message is None:
            await asyncio.sleep(3600)
        return message

    ids = map(str, count())
    return ForwardedRequest("e", (), scope, timeout_s=timeout_s, request_ids=ids), receive


def body(data: bytes, *, more: bool = True) -> Any:
    """Return a piece of a body."""
    return {"type": "http.request", "body": data, "more_body": more}


async def collected(request: ForwardedRequest, receive: Any, room: Room) -> Any:
    """Return the body after the head, once it was collected."""
    await request.receive_body(receive)
    await request.collect(room)
    if isinstance(request.body, AsyncIterator):
        return [piece async for piece in request.body]
    return request.body


@pytest.mark.parametrize("size", [INLINE - 1, INLINE, INLINE + 1])
def test_a_body_that_comes_in_pieces_is_whole_before_the_request_is_sent(size: int) -> None:
    """A short body travels in the head. A longer one can be sent again."""
    messages = [body(b"a" * 100), body(b"b" * (size - 100)), body(b"", more=False)]
    request, receive = request_with(messages)
    room = Room(1 << 20)
    found = asyncio.run(collected(request, receive, room))
    assert request._inline + b"".join(found or []) == b"a" * 100 + b"b" * (size - 100)
    assert (found is None) == (size <= INLINE)
    assert room.left == (1 << 20) - size
    assert request.kept is not None
    request.kept.give_back()
    assert room.left == 1 << 20


def test_a_body_without_room_streams() -> None:
    """No byte of it is lost."""
    pieces = [bytes([number]) * 1000 for number in range(10)]
    request, receive = request_with([*map(body, pieces), body(b"", more=False)])
    assert asyncio.run(collected(request, receive, Room(3500))) == pieces


def test_a_body_that_is_known_to_be_too_long_is_not_collected() -> None:
    """User code begins at once, as for every stream."""
    length = (b"content-length", b"%d" % (MAX_KEPT_BYTES + 1))
    request, receive = request_with([body(b"a")], length)

    async def first() -> bytes:
        await request.receive_body(receive)
        await request.collect(Room(1 << 30))
        assert isinstance(request.body, AsyncIterator)
        return await anext(request.body)

    assert asyncio.run(first()) == b"a"


@pytest.mark.parametrize(
    ("messages", "error"), [([body(b"a"), {"type": "http.disconnect"}], UploadBroken), ([body(b"a")], DeadlineExceeded)]
)
def test_a_body_that_does_not_come_gives_everything_back(messages: list[Any], error: type[Exception]) -> None:
    """The client has left, or the deadline has passed. No backend got the request."""
    request, receive = request_with(messages, timeout_s=0.1)
    room = Room(1 << 20)
    with pytest.raises(error):
        asyncio.run(collected(request, receive, room))
    assert room.left == 1 << 20
