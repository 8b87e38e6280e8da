"""How pieces of a body that have come are handed on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from serve_bridge.wire.body import CHUNK_BYTES
from serve_bridge.wire.caller_end import CallerStream
from serve_bridge.wire.frames import END, Frame, Kind
from serve_bridge.wire.stream_states import State


class Connection:
    """Takes the frames of credit that reading gives."""

    writes = 0

    def send(self, frame: bytes) -> None:
        """Take *frame*."""


def pieces_read(payloads: Sequence[bytes], *, last: bytes | None = None) -> list[bytes]:
    """Return what a reader gets that joins, once all *payloads* and the *last* frame have come."""

    async def read() -> list[bytes]:
        reply = asyncio.get_running_loop().create_future()
        stream = CallerStream(1, cast(Any, Connection()), reply, uploading=False)
        stream.state = State.STREAMING
        for payload in payloads:
            stream.put(Frame(Kind.DATA, 0, 0, 1, payload))
        if last is None:
            stream.end_body()
        else:
            stream.put(Frame(Kind.DATA, END, 0, 1, last))
        found = []
        while (frame := await stream.next_frame()) is not None:
            found.append(stream.joined(frame))
        return found

    return asyncio.run(read())


def test_short_pieces_that_wait_already_come_as_one() -> None:
    """In their order."""
    assert pieces_read([b"a", b"b", b"c"]) == [b"abc"]


def test_pieces_are_joined_up_to_the_length_of_a_long_one() -> None:
    """A long body is not gathered in memory."""
    long, half = bytes(CHUNK_BYTES), bytes(CHUNK_BYTES // 2)
    assert [len(piece) for piece in pieces_read([long, half, half, b"x", long])] == [
        CHUNK_BYTES,
        len(half) * 2,
        1,
        CHUNK_BYTES,
    ]


def test_the_last_frame_stands_alone() -> None:
    """It may hold trailers and no body."""
    assert pieces_read([b"a", b"b"], last=b"trailers") == [b"ab", b"trailers"]
