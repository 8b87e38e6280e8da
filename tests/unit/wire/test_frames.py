"""Frames: bytes cut up, whatever pieces they come in."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_bridge.errors import ProtocolError, SerializationError
from serve_bridge.wire.frames import (
    END,
    HEADER,
    HEADER_BYTES,
    MAX_PAYLOAD,
    MORE,
    Frame,
    FrameReader,
    Kind,
    encode,
)

frames = st.builds(
    Frame,
    kind=st.sampled_from([int(kind) for kind in Kind]),
    flags=st.sampled_from([0, END, MORE]),
    load=st.integers(0, 0xFFFF),
    stream=st.integers(0, 2**64 - 1),
    payload=st.binary(max_size=40),
)


def written(frame: Frame) -> bytes:
    """Return the bytes of a frame."""
    return encode(frame.kind, frame.stream, frame.payload, frame.flags, frame.load)


@given(st.lists(frames, max_size=8), st.data())
def test_frames_come_out_as_they_went_in_however_they_are_cut(sent: list[Frame], data: st.DataObject) -> None:
    """The borders of reads mean nothing."""
    stream = b"".join(map(written, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    reader = FrameReader()
    received: list[Frame] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received.extend(reader.feed(stream[start:end]))
    assert received == sent


@given(st.lists(frames, min_size=1, max_size=8))
def test_frames_that_were_not_asked_for_come_next_time(sent: list[Frame]) -> None:
    """Who stops after the first one loses nothing."""
    reader = FrameReader()
    data = b"".join(map(written, sent))
    assert next(iter(reader.feed(data))) == sent[0]
    assert list(reader.feed(data)) == [*sent[1:], *sent]


bodies = st.builds(
    Frame,
    kind=st.sampled_from([int(Kind.DATA), int(Kind.DATA), int(Kind.RESPONSE)]),
    flags=st.sampled_from([0, END, MORE]),
    load=st.just(0),
    stream=st.integers(1, 3),
    payload=st.binary(max_size=200),
)


@given(st.lists(bodies, max_size=8), st.data())
def test_payloads_with_a_place_come_there(sent: list[Frame], data: st.DataObject) -> None:
    """Through `feed`, in whatever pieces, or read into `space` past it; the frames say how much."""
    spaces: dict[tuple[int, int], memoryview] = {}
    reader = FrameReader(lambda stream, size: spaces.setdefault((stream, len(spaces)), memoryview(bytearray(size))))
    stream = b"".join(map(written, sent))
    received: list[Frame] = []
    while stream:
        size = data.draw(st.integers(1, 60))
        if reader.space is not None and data.draw(st.booleans()):
            size = min(size, len(reader.space), len(stream))
            reader.space[:size] = stream[:size]
            if reader.filled(size):
                received.extend(reader.feed(b""))
        else:
            received.extend(reader.feed(stream[:size]))
        stream = stream[size:]
    placed = iter(spaces.values())
    whole = [Frame(f.kind, f.flags, f.load, f.stream, bytes(next(placed))) if f.placed else f for f in received]
    assert whole == sent
    assert all(frame.kind == Kind.DATA for frame in received if frame.placed)


@given(st.lists(frames, max_size=4), st.data())
def test_bytes_that_were_changed_raise_a_protocol_error_at_most(sent: list[Frame], data: st.DataObject) -> None:
    """Whatever a peer sends."""
    stream = bytearray(b"".join(map(written, sent)) or b"\0")
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ProtocolError):
        list(FrameReader().feed(bytes(stream)))


def test_a_length_above_the_limit_is_refused_before_its_payload_has_come() -> None:
    """The header is enough."""
    with pytest.raises(ProtocolError):
        list(FrameReader().feed(HEADER.pack(MAX_PAYLOAD + 1, Kind.DATA, 0, 0, 1)))


@pytest.mark.parametrize("kind", [0, 12, 255])
def test_an_unknown_kind_is_refused(kind: int) -> None:
    """A peer of another version does not get far."""
    with pytest.raises(ProtocolError):
        list(FrameReader().feed(HEADER.pack(0, kind, 0, 0, 1)))


def test_unknown_flags_are_refused() -> None:
    """They would mean something."""
    with pytest.raises(ProtocolError):
        list(FrameReader().feed(HEADER.pack(0, Kind.DATA, 4, 0, 1)))


def test_frames_before_a_broken_one_still_come() -> None:
    """An answer that has come is an answer."""
    whole = Frame(int(Kind.RESPONSE), END, 0, 1, b"head")
    read = FrameReader().feed(written(whole) + bytes(HEADER_BYTES))
    assert next(read) == whole
    with pytest.raises(ProtocolError):
        next(read)


def test_a_payload_that_no_peer_would_take_cannot_be_written() -> None:
    """It costs one request, and not everybody's connection."""
    with pytest.raises(SerializationError):
        encode(Kind.CALL, 1, bytes(MAX_PAYLOAD + 1))
    assert len(encode(Kind.CALL, 1, bytes(MAX_PAYLOAD))) == HEADER_BYTES + MAX_PAYLOAD
