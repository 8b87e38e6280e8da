"""The states of the streams on one connection, as two tables.

Rule 1: frames in, accepted frames out; no sockets, no clock.
Rule 2: a frame that the tables do not list is a `ProtocolError`, and the connection is closed: a late or doubled
        frame can never be taken for the answer to another request.
Rule 3: each request gets exactly one last frame from the replica: RESPONSE or DATA with END, REJECT, or ABORT.
Rule 4: a request body flows only on credit, and the first credit says that the request was accepted; so a rejected
        request has lost nothing of its body.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from serve_bridge.errors import ProtocolError
from serve_bridge.wire.frames import END, Frame, FrameReader, Kind

ANSWER_WINDOW: Final = 1 << 20
"""Bytes of an answer's body that a replica may send ahead of the caller's credit."""


class State(IntEnum):
    """Where one stream stands, seen from one end."""

    # both ends
    GONE = 0
    # at the caller
    WAITING = 1
    STREAMING = 2
    GIVEN_UP = 3
    """CANCEL was sent; what still arrives is swallowed until the last frame."""
    # at the replica
    UPLOADING = 4
    ANSWERING = 5
    CANCELLED = 6
    """CANCEL has come; the replica still owes the last frame."""
    ABANDONED = 7
    """The last frame was sent while the caller still uploads; what arrives is swallowed until END or CANCEL."""


_S, _K = State, Kind

CALLER: Final[Mapping[tuple[int, int, bool], State]] = {
    # (state, kind received, END) -> state
    (_S.WAITING, _K.RESPONSE, False): _S.STREAMING,
    (_S.WAITING, _K.RESPONSE, True): _S.GONE,
    (_S.WAITING, _K.REJECT, True): _S.GONE,
    (_S.WAITING, _K.ABORT, True): _S.GONE,
    (_S.WAITING, _K.CREDIT, False): _S.WAITING,
    (_S.STREAMING, _K.DATA, False): _S.STREAMING,
    (_S.STREAMING, _K.DATA, True): _S.GONE,
    (_S.STREAMING, _K.ABORT, True): _S.GONE,
    (_S.STREAMING, _K.CREDIT, False): _S.STREAMING,
    (_S.GIVEN_UP, _K.RESPONSE, False): _S.GIVEN_UP,
    (_S.GIVEN_UP, _K.RESPONSE, True): _S.GONE,
    (_S.GIVEN_UP, _K.DATA, False): _S.GIVEN_UP,
    (_S.GIVEN_UP, _K.DATA, True): _S.GONE,
    (_S.GIVEN_UP, _K.REJECT, True): _S.GONE,
    (_S.GIVEN_UP, _K.ABORT, True): _S.GONE,
    (_S.GIVEN_UP, _K.CREDIT, False): _S.GIVEN_UP,
}
"""What a caller may receive."""

REPLICA: Final[Mapping[tuple[int, int, bool], State]] = {
    (_S.UPLOADING, _K.DATA, False): _S.UPLOADING,
    (_S.UPLOADING, _K.DATA, True): _S.ANSWERING,
    (_S.UPLOADING, _K.CANCEL, True): _S.CANCELLED,
    (_S.UPLOADING, _K.CREDIT, False): _S.UPLOADING,
    (_S.ANSWERING, _K.CANCEL, True): _S.CANCELLED,
    (_S.ANSWERING, _K.CREDIT, False): _S.ANSWERING,
    (_S.ABANDONED, _K.DATA, False): _S.ABANDONED,
    (_S.ABANDONED, _K.DATA, True): _S.GONE,
    (_S.ABANDONED, _K.CANCEL, True): _S.GONE,
    (_S.ABANDONED, _K.CREDIT, False): _S.ABANDONED,
}
"""What a replica may receive on a stream that a REQUEST or CALL has opened."""

SWALLOWED: Final = frozenset({State.GIVEN_UP, State.ABANDONED})
"""States in which a frame is legal and means nothing any more."""

_CONNECTION_KINDS = frozenset({Kind.GOAWAY, Kind.PING, Kind.PONG})


class Stream:
    """One stream's state and its two windows.

    Attributes:
        id: Its number on the connection, from 1 upwards.
        state: See `State`.
        send_window: Body bytes that may be sent before more credit comes.
        recv_window: Body bytes that the peer may still send.
    """

    __slots__ = ("id", "recv_window", "send_window", "state")

    def __init__(self, id: int, state: State, *, send_window: int, recv_window: int) -> None:
        self.id = id
        self.state = state
        self.send_window = send_window
        self.recv_window = recv_window

    def spend_recv_window(self, size: int) -> None:
        """Count *size* received body bytes.

        Raises:
            ProtocolError: The peer sent more than it had credit for.
        """
        self.recv_window -= size
        if self.recv_window < 0:
            raise ProtocolError(f"stream {self.id} overran its credit by {-self.recv_window} bytes")


class CallerSession:
    """The caller's half of a connection: numbers streams, checks what comes back."""

    def __init__(self) -> None:
        self._reader = FrameReader()
        self._last = 0
        self.streams: dict[int, Stream] = {}

    def next_id(self) -> int:
        """Return the number of the next stream to open."""
        self._last += 1
        return self._last

    def give_up(self, stream: Stream) -> None:
        """Note that CANCEL is being sent for *stream*."""
        stream.state = State.GIVEN_UP

    def feed(self, data: bytes) -> list[tuple[Stream | None, Frame]]:
        """Return each frame that means something, with its stream (None: it speaks of the connection).

        Raises:
            ProtocolError: The peer broke the protocol; close the connection.
        """
        events: list[tuple[Stream | None, Frame]] = []
        streams = self.streams
        for frame in self._reader.feed(data):
            kind = frame.kind
            stream = streams.get(frame.stream)
            if stream is None:
                if kind not in _CONNECTION_KINDS:
                    raise ProtocolError(f"{Kind(kind).name} for stream {frame.stream}, which is not open")
                events.append((None, frame))
                continue
            before = stream.state
            after = CALLER.get((before, kind, bool(frame.flags & END)))
            if after is None:
                raise ProtocolError(f"{Kind(kind).name} does not fit a stream that is {State(before).name}")
            stream.state = after
            if kind == Kind.DATA and before != State.GIVEN_UP:
                stream.spend_recv_window(len(frame.payload))
            if after == State.GONE:
                del streams[frame.stream]
                events.append((stream, frame))
            elif before not in SWALLOWED:
                events.append((stream, frame))
        return events


class ReplicaSession:
    """The replica's half of a connection: opens streams as they are asked for, checks what comes in."""

    def __init__(self, make_stream: type[Stream]) -> None:
        self._reader = FrameReader()
        self._make_stream = make_stream
        self.last = 0
        self.streams: dict[int, Stream] = {}

    def feed(self, data: bytes) -> list[tuple[Stream | None, Frame]]:
        """Return each frame that means something, with its stream (None: it speaks of the connection).

        Raises:
            ProtocolError: The peer broke the protocol; close the connection.
        """
        events: list[tuple[Stream | None, Frame]] = []
        for frame in self._reader.feed(data):
            kind = frame.kind
            if kind == Kind.REQUEST or kind == Kind.CALL:
                events.append((self._open(frame), frame))
                continue
            stream = self.streams.get(frame.stream)
            if stream is None:
                self._check_without_stream(frame)
                if kind in _CONNECTION_KINDS:
                    events.append((None, frame))
                continue
            before = stream.state
            after = REPLICA.get((before, kind, bool(frame.flags & END)))
            if after is None:
                raise ProtocolError(f"{Kind(kind).name} does not fit a stream that is {State(before).name}")
            stream.state = after
            if after == State.GONE:
                del self.streams[frame.stream]
            elif before not in SWALLOWED:
                if kind == Kind.DATA:
                    stream.spend_recv_window(len(frame.payload))
                events.append((stream, frame))
        return events

    def finish(self, stream: Stream) -> bool:
        """Note that the last frame of *stream* is being sent; False if it was sent before."""
        if stream.state == State.UPLOADING:
            stream.state = State.ABANDONED
            return True
        if stream.state in (State.ANSWERING, State.CANCELLED):
            stream.state = State.GONE
            del self.streams[stream.id]
            return True
        return False

    def _open(self, frame: Frame) -> Stream:
        if frame.stream <= self.last:
            raise ProtocolError(f"stream {frame.stream} opened after stream {self.last}")
        self.last = frame.stream
        state = State.ANSWERING if frame.flags & END else State.UPLOADING
        stream = self._make_stream(frame.stream, state, send_window=ANSWER_WINDOW, recv_window=0)
        self.streams[frame.stream] = stream
        return stream

    def _check_without_stream(self, frame: Frame) -> None:
        if frame.kind in _CONNECTION_KINDS:
            return
        # A caller that gives up, or returns credit, may do so while the last frame is on its way.
        if frame.kind in (Kind.CANCEL, Kind.CREDIT) and 0 < frame.stream <= self.last:
            return
        raise ProtocolError(f"{Kind(frame.kind).name} for stream {frame.stream}, which is not open")
