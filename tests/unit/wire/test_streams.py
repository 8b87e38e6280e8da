"""What may come on a stream, and what closes the connection."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_bridge.errors import ProtocolError
from serve_bridge.wire.frames import END, HEADER_BYTES, MORE, Frame, Kind, encode
from serve_bridge.wire.sessions import CallerSession, ReplicaSession
from serve_bridge.wire.stream_states import CALLER, REPLICA, State
from serve_bridge.wire.streams import CREDIT, FRAME_COST, MAX_WINDOW, Stream

STREAM_KINDS = [kind for kind in Kind if kind < Kind.GOAWAY]
LATER_KINDS = [kind for kind in STREAM_KINDS if kind not in (Kind.REQUEST, Kind.CALL)]
FLAGS = [0, END, MORE, END | MORE]
CALLER_STATES = [State.WAITING, State.STREAMING, State.GIVEN_UP]
REPLICA_STATES = [State.UPLOADING, State.ANSWERING, State.CANCELLED, State.ABANDONED]
WINDOW = 1 << 20


def payload_of(kind: Kind) -> bytes:
    """Return a payload that fits a kind."""
    return CREDIT.pack(1) if kind == Kind.CREDIT else b""


def caller_in(state: State, window: int = WINDOW) -> CallerSession[Stream]:
    """Return a caller's session with stream 1 in a state."""
    session: CallerSession[Stream] = CallerSession()
    session.streams[session.next_id()] = Stream(1, state, send_window=0, recv_window=window)
    return session


def replica_in(state: State, window: int = WINDOW) -> ReplicaSession[Stream]:
    """Return a replica's session with stream 1 in a state."""
    session = ReplicaSession(Stream)
    [(stream, _)] = session.feed(encode(Kind.CALL, 1))
    assert stream is not None
    stream.state, stream.recv_window = state, window
    return session


def illegal(table: object, states: list[State], kinds: list[Kind]) -> list[tuple[State, Kind, int]]:
    """Return what a table does not list."""
    return [entry for entry in itertools.product(states, kinds, FLAGS) if entry not in table]  # type: ignore[operator]


@pytest.mark.parametrize(("entry", "after"), CALLER.items(), ids=str)
def test_a_caller_follows_its_table(entry: tuple[State, Kind, int], after: State) -> None:
    """Each entry leads to its state; a stream that is gone is forgotten."""
    state, kind, flags = entry
    session = caller_in(state)
    stream = session.streams[1]
    list(session.feed(encode(kind, 1, payload_of(kind), flags)))
    assert (stream.state, 1 in session.streams) == (after, after is not State.GONE)


@pytest.mark.parametrize(("state", "kind", "flags"), illegal(CALLER, CALLER_STATES, STREAM_KINDS), ids=str)
def test_what_a_callers_table_does_not_list_is_an_error(state: State, kind: Kind, flags: int) -> None:
    """Nothing else may come."""
    with pytest.raises(ProtocolError):
        list(caller_in(state).feed(encode(kind, 1, payload_of(kind), flags)))


@pytest.mark.parametrize(("entry", "after"), REPLICA.items(), ids=str)
def test_a_replica_follows_its_table(entry: tuple[State, Kind, int], after: State) -> None:
    """Each entry leads to its state; a stream that is gone is forgotten."""
    state, kind, flags = entry
    session = replica_in(state)
    stream = session.streams[1]
    list(session.feed(encode(kind, 1, payload_of(kind), flags)))
    assert (stream.state, 1 in session.streams) == (after, after is not State.GONE)


@pytest.mark.parametrize(("state", "kind", "flags"), illegal(REPLICA, REPLICA_STATES, LATER_KINDS), ids=str)
def test_what_a_replicas_table_does_not_list_is_an_error(state: State, kind: Kind, flags: int) -> None:
    """Nothing else may come."""
    with pytest.raises(ProtocolError):
        list(replica_in(state).feed(encode(kind, 1, payload_of(kind), flags)))


@pytest.mark.parametrize("kind", list(STREAM_KINDS), ids=str)
def test_a_caller_refuses_frames_for_streams_that_are_not_open(kind: Kind) -> None:
    """An answer that comes twice, or to nobody, can be taken for nobody's."""
    with pytest.raises(ProtocolError):
        list(caller_in(State.WAITING).feed(encode(kind, 2, payload_of(kind), END)))


def test_a_replica_swallows_what_crossed_its_last_frame() -> None:
    """CANCEL and CREDIT may be under way while it is sent."""
    session = replica_in(State.ANSWERING)
    session.finish(session.streams[1])
    late = encode(Kind.CANCEL, 1, b"", END) + encode(Kind.CREDIT, 1, CREDIT.pack(1))
    assert list(session.feed(late)) == []


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.CANCEL, Kind.CREDIT], ids=str)
def test_a_replica_refuses_frames_for_streams_that_never_were(kind: Kind) -> None:
    """Nothing is under way to them."""
    with pytest.raises(ProtocolError):
        list(replica_in(State.ANSWERING).feed(encode(kind, 2, payload_of(kind), END)))


@pytest.mark.parametrize("number", [0, 1])
def test_a_stream_is_opened_once(number: int) -> None:
    """Numbers grow."""
    with pytest.raises(ProtocolError):
        list(replica_in(State.ANSWERING).feed(encode(Kind.REQUEST, number, b"", END)))


@pytest.mark.parametrize("kind", [Kind.GOAWAY, Kind.PONG], ids=str)
def test_a_replica_is_not_told_what_only_replicas_say(kind: Kind) -> None:
    """Of those frames that speak of the connection it takes PING only."""
    with pytest.raises(ProtocolError):
        list(replica_in(State.ANSWERING).feed(encode(kind, 1)))


def test_goaway_speaks_of_the_connection_even_if_its_last_stream_is_open() -> None:
    """Its number is no stream to be looked up."""
    [(stream, frame)] = caller_in(State.WAITING).feed(encode(Kind.GOAWAY, 1))
    assert (stream, frame.stream) == (None, 1)


def test_goaway_gives_up_what_was_not_accepted_until_its_reject_has_come() -> None:
    """The two cross each other; neither is an error."""
    session = caller_in(State.WAITING)
    assert [stream.id for stream in session.refused_above(0)] == [1]
    [(stream, _)] = session.feed(encode(Kind.REJECT, 1, b"", END))
    assert stream is not None
    assert stream.state == State.GONE


def test_goaway_cannot_deny_what_is_being_answered() -> None:
    """It would be counted as not started."""
    with pytest.raises(ProtocolError):
        caller_in(State.STREAMING).refused_above(0)


@pytest.mark.parametrize("state", [State.STREAMING])
def test_a_caller_holds_the_peer_to_its_credit(state: State) -> None:
    """Each DATA frame costs its bytes and a little more."""
    session = caller_in(state, window=10 + FRAME_COST)
    list(session.feed(encode(Kind.DATA, 1, bytes(10))))
    with pytest.raises(ProtocolError):
        list(session.feed(encode(Kind.DATA, 1, b"")))


def test_a_replica_gives_no_credit_before_the_request_is_accepted() -> None:
    """So that a rejected request has lost nothing of its body."""
    session = ReplicaSession(Stream)
    with pytest.raises(ProtocolError):
        list(session.feed(encode(Kind.CALL, 1) + encode(Kind.DATA, 1, b"x")))


@pytest.mark.parametrize("payload", [b"", b"123", bytes(5), CREDIT.pack(MAX_WINDOW + 1)], ids=repr)
def test_credit_that_is_none_is_an_error(payload: bytes) -> None:
    """Four bytes, and not more than any window."""
    with pytest.raises(ProtocolError):
        list(caller_in(State.STREAMING).feed(encode(Kind.CREDIT, 1, payload)))


def test_the_last_frame_is_sent_once() -> None:
    """Whoever comes second sends nothing."""
    session = replica_in(State.ANSWERING)
    stream = session.streams[1]
    assert [session.finish(stream), session.finish(stream)] == [True, False]


def test_an_upload_outlives_its_answer_until_the_caller_has_noticed() -> None:
    """What is under way of the body is swallowed."""
    session = replica_in(State.UPLOADING)
    session.finish(session.streams[1])
    assert list(session.feed(encode(Kind.DATA, 1, bytes(100)))) == []
    list(session.feed(encode(Kind.CANCEL, 1, b"", END)))
    assert session.streams == {}


def test_frames_before_a_broken_one_reach_their_stream() -> None:
    """The answer has come, whatever the peer does next."""
    events = caller_in(State.WAITING).feed(encode(Kind.RESPONSE, 1, b"head", END) + bytes(HEADER_BYTES))
    _, frame = next(events)
    assert frame.payload == b"head"
    with pytest.raises(ProtocolError):
        next(events)


written = st.builds(
    encode,
    kind=st.sampled_from(list(Kind)),
    stream=st.integers(0, 4),
    payload=st.binary(max_size=8),
    flags=st.integers(0, 3),
)


@given(st.lists(written, max_size=12), st.booleans())
def test_no_sequence_of_frames_raises_anything_but_a_protocol_error(sent: list[bytes], at_caller: bool) -> None:
    """And every stream that is known is in a state of its end."""
    session: CallerSession[Stream] | ReplicaSession[Stream]
    session = caller_in(State.WAITING) if at_caller else ReplicaSession(Stream)
    try:
        for stream, frame in session.feed(b"".join(sent)):
            assert stream is None or stream.id == frame.stream
    except ProtocolError:
        pass
    states = CALLER_STATES if at_caller else REPLICA_STATES
    assert all(State(stream.state) in states for stream in session.streams.values() if stream.state)


@given(st.lists(st.tuples(st.sampled_from([Kind.REQUEST, Kind.CALL]), st.booleans()), max_size=10))
def test_each_request_opens_its_stream(requests: list[tuple[Kind, bool]]) -> None:
    """With a body to come, or without."""
    session = ReplicaSession(Stream)
    data = b"".join(encode(kind, number, b"", END if whole else 0) for number, (kind, whole) in enumerate(requests, 1))
    opened: list[tuple[Stream | None, Frame]] = list(session.feed(data))
    states = [State.ANSWERING if whole else State.UPLOADING for _, whole in requests]
    assert [stream.state for stream, _ in opened if stream is not None] == states
