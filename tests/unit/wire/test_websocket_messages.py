"""The messages of a WebSocket on a stream: round trips, and what is none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_bridge.errors import ProtocolError
from serve_bridge.wire.frames import END, MORE, Frame, Kind
from serve_bridge.wire.replica_end import ReplicaStream
from serve_bridge.wire.stream_states import State
from serve_bridge.wire.websocket_messages import (
    MAX_REASON_BYTES,
    Close,
    Hold,
    Message,
    MessageReader,
    MessageTooLong,
    NoRoom,
    decode,
    encode,
    sendable,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
closes = st.builds(Close, st.integers(0, 0xFFFF), texts.filter(lambda text: len(text.encode()) <= MAX_REASON_BYTES))
messages = st.one_of(texts, st.binary(max_size=200), closes)


def joined(message: Message) -> bytes:
    """Return the bytes of a message."""
    return b"".join(bytes(segment) for segment in encode(message))


async def read(
    pieces: Sequence[tuple[bytes, int]], limit: int | None = None, hold: Hold | None = None
) -> list[Message]:
    """Return the messages that come in DATA frames of *pieces* and their flags."""
    stream = ReplicaStream(1, State.UPLOADING, send_window=0, recv_window=0)
    for payload, flags in pieces:
        stream.put(Frame(Kind.DATA, flags, 0, 1, payload))
    stream.put(Frame(Kind.DATA, END, 0, 1, b""))
    reader = MessageReader(stream, limit, hold)
    found: list[Message] = []
    while (message := await reader.next()) is not None:
        found.append(message)
    return found


@given(messages)
def test_a_message_comes_out_as_it_went_in(message: Message) -> None:
    """With its kind: text stays text, empty or not."""
    decoded = decode(joined(message))
    assert (decoded, type(decoded)) == (message, type(message))


@given(st.lists(messages, max_size=6), st.data())
def test_messages_keep_their_borders_however_they_are_cut(sent: list[Message], data: st.DataObject) -> None:
    """A message may take any number of frames."""
    pieces: list[tuple[bytes, int]] = []
    for encoded in map(joined, sent):
        cuts = data.draw(st.lists(st.integers(1, len(encoded)), max_size=4))
        ends = sorted({*cuts, len(encoded)})
        for start, end in zip([0, *ends], ends, strict=False):
            pieces.append((encoded[start:end], 0 if end == len(encoded) else MORE))
    assert asyncio.run(read(pieces)) == sent


@given(st.binary(max_size=300))
def test_bytes_are_a_message_or_a_protocol_error(data: bytes) -> None:
    """Never another error, whatever a peer sends."""
    try:
        decoded = decode(data)
    except ProtocolError:
        return
    assert decoded is None or joined(decoded) == data


@pytest.mark.parametrize(
    "data", [b"", b"x", b"\xfft", b"c", b"\x03c", b"\x03\xe8\xffc", b"\x03\xe8" + b"r" * 124 + b"c"]
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    """No kind, an unknown one, no UTF-8, a close without a code or with a reason that is too long."""
    with pytest.raises(ProtocolError):
        decode(data)


def test_a_torn_message_that_was_ended_as_void_is_left_out() -> None:
    """Its sender was cancelled in the middle."""
    pieces = [(b"half of it", MORE), (b"v", 0), *[(joined("next"), 0)]]
    assert asyncio.run(read(pieces)) == ["next"]


def test_a_message_above_the_limit_is_not_kept() -> None:
    """The limit is for what a message holds, and exact."""
    exact = [(b"x" * 200, MORE), (b"b", 0)]
    assert asyncio.run(read(exact, 200)) == [b"x" * 200]
    with pytest.raises(MessageTooLong):
        asyncio.run(read([(b"x" * 200, MORE), (b"x" * 2, MORE)], 200))


@pytest.mark.parametrize(("room", "limit", "given_up"), [(3, 1000, NoRoom), (1000, 150, MessageTooLong)])
def test_a_message_that_is_given_up_is_held_no_more(room: int, limit: int, given_up: type[Exception]) -> None:
    """Its client may delay the close for long."""
    told: list[int] = []

    def hold(count: int) -> bool:
        told.append(count)
        return count <= room

    with pytest.raises(given_up):
        asyncio.run(read([(b"xx", MORE)] * 100, limit, hold))
    assert told[-1] == 0


def test_to_cancel_a_reader_loses_nothing() -> None:
    """Waiting for a message with a time-out is what many handlers do."""

    async def run() -> Message | None:
        stream = ReplicaStream(1, State.UPLOADING, send_window=0, recv_window=0)
        reader = MessageReader(stream)
        stream.put(Frame(Kind.DATA, MORE, 0, 1, b"first half, "))
        waiting = asyncio.ensure_future(reader.next())
        await asyncio.wait([waiting], timeout=0)
        waiting.cancel()
        await asyncio.wait([waiting])
        stream.put(Frame(Kind.DATA, 0, 0, 1, b"second halft"))
        return await reader.next()

    assert asyncio.run(run()) == "first half, second half"


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 1014, 3000, 4999])
def test_a_code_that_may_leave_is_sent(code: int) -> None:
    """RFC 6455 §7.4 and its registry."""
    assert sendable(code) == code


@pytest.mark.parametrize("code", [-1, 0, 999, 1004, 1006, 1015, 2999, 5000])
def test_a_code_that_may_not_leave_is_sent_as_a_failure(code: int) -> None:
    """But for 1005, which stands for a close without a code."""
    assert (sendable(code), sendable(1005)) == (1011, 1000)


@given(st.text())
def test_a_reason_is_cut_to_what_a_close_frame_holds(reason: str) -> None:
    """Between characters, and whatever the text is."""
    decoded = decode(joined(Close(1000, reason * 30)))
    assert isinstance(decoded, Close)
    assert len(decoded.reason.encode()) <= MAX_REASON_BYTES
