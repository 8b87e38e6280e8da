"""The frames of a WebSocket, read in steps: however the bytes are cut, and however much one step could take."""

from __future__ import annotations

import logging
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.protocol import OPEN

from serve_bridge.http_server.websocket_frames import FRAME_COST, PIECE_BYTES, FrameProtocol
from tests.support.raw_websocket import BINARY, CLOSE, PING, PONG, TEXT, close_frame, frame

MOST = 2**20
STEP = FRAME_COST + 2 * PIECE_BYTES
"""Upper limit for the cost of one step: a head, a piece of payload, and what a piece inflates to."""


def protocol(*, deflate: bool = False) -> FrameProtocol:
    """Return one whose handshake is done."""
    made = FrameProtocol(extensions=[], max_size=MOST, logger=logging.getLogger("tests"))
    made.state = OPEN
    made.extensions = [PerMessageDeflate(False, False, 12, 12)] if deflate else []
    return made


def read_all(conn: FrameProtocol, data: bytes, budget: int = 1) -> list[str | bytes]:
    """Return the messages in *data*, which is read in the shortest steps."""
    received = bytearray(data)
    messages = []
    while conn.read(received, budget):
        if conn.message is not None:
            messages.append(conn.take_message())
    return messages


def deflated(data: bytes) -> bytes:
    """Return the payload of a compressed message."""
    deflate = zlib.compressobj(wbits=-12)
    return (deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


def masked(opcode: int, payload: bytes, mask: bytes, *, fin: bool = True, reserved: int = 0) -> bytes:
    """Return a frame with a mask that changes its payload."""
    plain = frame(opcode, payload, fin=fin, reserved=reserved)
    start = len(plain) - len(payload)
    covered = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return plain[: start - 4] + mask + covered


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
sent = st.lists(
    st.tuples(
        st.one_of(texts, st.binary(max_size=300)), st.integers(1, 4), st.booleans(), st.binary(min_size=4, max_size=4)
    ),
    max_size=5,
)


@given(sent, st.integers(1, 64), st.booleans())
def test_messages_come_out_as_they_went_in(
    messages: list[tuple[str | bytes, int, bool, bytes]], cut: int, one_by_one: bool
) -> None:
    """Text and bytes, in fragments, masked, compressed, with pings between, and cut anywhere."""
    data = b""
    for message, fragments, compress, mask in messages:
        payload = message.encode() if isinstance(message, str) else message
        if compress:
            payload = deflated(payload)
        size = len(payload) // fragments + 1
        pieces = [payload[start : start + size] for start in range(0, len(payload), size)] or [b""]
        opcode = TEXT if isinstance(message, str) else BINARY
        for number, piece in enumerate(pieces):
            first, last = number == 0, number == len(pieces) - 1
            data += masked(opcode if first else 0, piece, mask, fin=last, reserved=4 if compress and first else 0)
            data += frame(PING, b"p")
    conn, received, found = protocol(deflate=True), bytearray(), []
    for start in range(0, len(data), cut):
        received += data[start : start + cut]
        while conn.read(received, 1 if one_by_one else MOST):
            if conn.message is not None:
                found.append(conn.take_message())
    assert conn.parser_exc is None
    assert found == [message for message, *_ in messages]
    assert conn.held == 0


WORK = {
    "fragments of one byte": frame(BINARY, b"x", fin=False) + frame(0, b"x", fin=False) * 20_000,
    "pings": frame(PING, b"p") * 20_000,
    "messages": frame(TEXT, b"x") * 20_000,
    "one long frame": frame(BINARY, bytes(MOST)),
    "a frame that inflates": frame(BINARY, deflated(bytes(MOST)), reserved=4),
    "fragments that inflate": frame(BINARY, deflated(bytes(MOST))[:500], reserved=4, fin=False)
    + frame(0, deflated(bytes(MOST))[500:]),
}


@pytest.mark.parametrize("name", WORK)
def test_one_step_is_short(name: str) -> None:
    """Whatever one read of a client holds, a step costs a head and a piece at most."""
    conn, received = protocol(deflate=True), bytearray(WORK[name])
    steps = 0
    while cost := conn.read(received, 1):
        assert cost <= STEP
        steps += 1
        conn.message = None
        conn.events_received()
    assert conn.parser_exc is None
    assert not received
    assert steps >= 16


@pytest.mark.parametrize("piece", [1, 2, 40])
def test_short_fragments_take_little_more_than_they_bring(piece: int) -> None:
    """They are joined as they come; each alone would take ten times as much."""
    conn = protocol()
    read_all(conn, frame(BINARY, b"ab" * 50, fin=False) + frame(0, b"x" * piece, fin=False) * 20_000, MOST)
    size = 100 + piece * 20_000
    assert size <= conn.held <= size * 1.1


def test_text_counts_as_what_it_takes() -> None:
    """One wide character makes each character of its piece take four bytes."""
    conn = protocol()
    read_all(conn, frame(TEXT, b"x" * 40_000 + "\U0001f600".encode(), fin=False), MOST)
    assert conn.held >= 160_000


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (frame(BINARY, b"x" * 63, fin=False) + frame(0, b"x") * 1, 2),
        (frame(BINARY, b"x" * 64, fin=False) + frame(0, b"x" * 64), 0),
        (frame(TEXT, b"x") * 5, 0),
        (frame(PING, b"x") * 5, 0),
    ],
    ids=["tiny", "64 bytes", "whole messages", "pings"],
)
def test_fragments_that_bring_little_are_counted(data: bytes, count: int) -> None:
    """Whole messages are held back by the application, and pings have a count of their own."""
    conn = protocol()
    read_all(conn, data)
    assert conn.tiny_fragments == count


def test_text_that_is_no_utf8_fails_before_its_message_ends() -> None:
    """The client learns it as soon as possible."""
    conn = protocol()
    read_all(conn, frame(TEXT, b"good", fin=False) + frame(0, b"\xff", fin=False))
    assert isinstance(conn.parser_exc, UnicodeDecodeError)
    assert conn.close_sent is not None
    assert conn.close_sent.code == 1007


def test_a_ping_in_a_message_that_is_as_long_as_allowed_is_answered() -> None:
    """The limit is for messages."""
    conn = protocol()
    data = frame(BINARY, bytes(MOST), fin=False) + frame(PING, b"p" * 125) + frame(0, b"")
    assert read_all(conn, data, MOST) == [bytes(MOST)]
    assert conn.parser_exc is None


def test_a_client_that_reads_nothing_gets_the_latest_pong_only() -> None:
    """Its pings cannot fill the memory; who has read gets each pong."""
    conn = protocol()
    conn.behind = True
    read_all(conn, frame(PING, b"1") * 1000 + frame(PING, b"2"))
    assert b"".join(conn.data_to_send()) == b""
    conn.catch_up()
    read_all(conn, frame(PING, b"3"))
    assert b"".join(conn.data_to_send()) == frame(PONG, b"2", masked=False) + frame(PONG, b"3", masked=False)


def test_no_pong_follows_a_close() -> None:
    """A close frame is the last one (RFC 6455 section 5.5.1)."""
    conn = protocol()
    conn.behind = True
    read_all(conn, frame(PING, b"1") + close_frame(1000))
    conn.catch_up()
    assert b"".join(conn.data_to_send()) == frame(CLOSE, b"\x03\xe8", masked=False)
