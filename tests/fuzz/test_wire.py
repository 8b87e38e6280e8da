"""Mutated frames to the parsers of the data plane: what does not belong is a ProtocolError, and never anything else."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from random import Random

import msgspec
import pytest

from serve_bridge.errors import ProtocolError
from serve_bridge.replica.http_requests import decode_http
from serve_bridge.routing_table import RoutingTable
from serve_bridge.wire.frames import HEADER_BYTES, MAX_PAYLOAD, Frame, Kind
from serve_bridge.wire.heads import CallAnswer, CallHead, HttpAnswer, HttpHead, Rejection, decoder
from serve_bridge.wire.sessions import CallerSession, ReplicaSession
from serve_bridge.wire.stream_states import State
from serve_bridge.wire.streams import Stream
from tests.faults.report.figures import note
from tests.fuzz.support.inputs import SEED, numbers, repeat
from tests.fuzz.support.mutated_frames import ANSWERED, ASKED, HTTP_HEAD, mutated_frames

INPUTS = 1_000
SPACE_BYTES = 3000
KINDS: list[type[msgspec.Struct]] = [CallAnswer, CallHead, HttpAnswer, HttpHead, Rejection, RoutingTable]


def fed(session: CallerSession[Stream] | ReplicaSession[Stream], pieces: Sequence[bytes]) -> list[Frame]:
    """Return the frames that mean something; the place that a body has takes what belongs there."""
    taken: list[Frame] = []
    try:
        for piece in pieces:
            for stream, frame in session.feed(piece):
                taken.append(frame)
                if stream is not None and stream.space is not None and frame.kind == Kind.DATA:
                    stream.fill(frame.payload)
    except ProtocolError:
        pass
    return taken


def cut(random: Random, data: bytes) -> list[bytes]:
    """Return *data* in pieces."""
    cuts = sorted(random.randint(0, len(data)) for _ in range(random.choice((0, 1, 4))))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@pytest.mark.parametrize("at_caller", [True, False], ids=["caller", "replica"])
def test_frames_that_do_not_belong_raise_a_protocol_error_at_most(at_caller: bool) -> None:
    """However they are cut; no more than one frame is kept, and no more than its place is filled."""
    made = numbers(INPUTS)
    for number in made:
        random = Random(number)
        data = mutated_frames(SEED, number, ANSWERED if at_caller else ASKED)
        space = memoryview(bytearray(SPACE_BYTES)) if random.random() < 0.5 else None
        session: CallerSession[Stream] | ReplicaSession[Stream]
        if at_caller:
            session = CallerSession()
            stream = Stream(session.next_id(), State.WAITING, send_window=0, recv_window=1 << 20)
            stream.space = space
            session.streams[stream.id] = stream
        else:
            session = ReplicaSession(Stream)
        try:
            taken = fed(session, cut(random, data))
        except Exception as error:
            raise AssertionError(f"{repeat(number)}: {data!r}") from error
        assert all(HEADER_BYTES + len(frame.payload) + frame.placed <= len(data) for frame in taken)
        assert all(len(frame.payload) + frame.placed <= MAX_PAYLOAD for frame in taken)
    note(len(made), f"{len(made)} mutated frames at each end")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_bytes_that_are_no_message_raise_a_protocol_error(kind: type[msgspec.Struct]) -> None:
    """Text that is no UTF-8 as everything else."""
    decode = decoder(kind)
    made = numbers(INPUTS)
    for number in made:
        random, data = Random(SEED << 40 | number), bytearray(HTTP_HEAD)
        for _ in range(random.randint(1, 3)):
            data[random.randrange(len(data))] = random.randrange(256)
        with contextlib.suppress(ProtocolError):
            assert isinstance(decode(bytes(data)), kind)
    with pytest.raises(ProtocolError, match=f"a {kind.__name__} is malformed"):
        decode(b"\xa1\xff")
    note(len(made), f"{len(made)} mutated messages of each kind")


@pytest.mark.parametrize("param", [("n", "int", "five"), ("n", "integer", "5")], ids=["text", "converter"])
def test_a_path_parameter_that_is_none_makes_a_head_malformed(param: tuple[str, str, str]) -> None:
    """It is no failure of user code, which is not reached."""
    head = msgspec.structs.replace(decode_http(HTTP_HEAD), path_params=(param,))
    with pytest.raises(ProtocolError, match="path parameter"):
        decode_http(msgspec.msgpack.encode(head))
