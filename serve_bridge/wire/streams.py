"""The states of the streams on one connection, as two tables.

Rule 1: frames in, accepted frames out; no sockets, no clock.
Rule 2: a frame that the tables do not list is a `ProtocolError`, and the connection is closed: a late or
    doubled frame can never be taken for the answer to another request.
Rule 3: each request gets exactly one last frame from the replica: RESPONSE or DATA with END, REJECT or ABORT.
Rule 4: a request body flows only on credit, and the first credit says that the request was accepted; so a
    rejected request has lost nothing of its body.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from typing import Final, Generic, TypeVar

from serve_bridge.errors import ProtocolError
from serve_bridge.wire.frames import END, MORE, Frame, FrameReader, Kind

ANSWER_WINDOW: Final = 1 << 20
"""What a replica may send of an answer's body ahead of the caller's credit."""
FRAME_COST: Final = 256
"""What each DATA frame takes of a window beside its bytes: windows bound the number of small ones too."""
MAX_WINDOW: Final = 1 << 30
MAX_STREAMS: Final = 1 << 16
"""Streams that a caller may have open on one connection."""
CREDIT: Final = struct.Struct("<I")


class State(IntEnum):
    """Where one stream stands, seen from one end."""

    # both ends
    GONE = 0
    # at the caller
    WAITING = 1
    STREAMING = 2
    GIVEN_UP = 3
    """CANCEL was sent, or GOAWAY has come; what still arrives is swallowed until the last frame."""
    # at the replica
    UPLOADING = 4
    ANSWERING = 5
    CANCELLED = 6
    """CANCEL has come; the replica still owes the last frame."""
    ABANDONED = 7
    """The last frame was sent while the caller uploads; what arrives is swallowed until END or CANCEL."""


_S, _K = State, Kind
Table = Mapping[tuple[State, Kind, int], State]

CALLER: Final[Table] = {
    # (state, kind received, flags) -> state
    (_S.WAITING, _K.RESPONSE, 0): _S.STREAMING,
    (_S.WAITING, _K.RESPONSE, END): _S.GONE,
    (_S.WAITING, _K.REJECT, END): _S.GONE,
    (_S.WAITING, _K.ABORT, END): _S.GONE,
    (_S.WAITING, _K.CREDIT, 0): _S.WAITING,
    (_S.STREAMING, _K.DATA, 0): _S.STREAMING,
    (_S.STREAMING, _K.DATA, MORE): _S.STREAMING,
    (_S.STREAMING, _K.DATA, END): _S.GONE,
    (_S.STREAMING, _K.ABORT, END): _S.GONE,
    (_S.STREAMING, _K.CREDIT, 0): _S.STREAMING,
    (_S.GIVEN_UP, _K.RESPONSE, 0): _S.GIVEN_UP,
    (_S.GIVEN_UP, _K.RESPONSE, END): _S.GONE,
    (_S.GIVEN_UP, _K.DATA, 0): _S.GIVEN_UP,
    (_S.GIVEN_UP, _K.DATA, MORE): _S.GIVEN_UP,
    (_S.GIVEN_UP, _K.DATA, END): _S.GONE,
    (_S.GIVEN_UP, _K.REJECT, END): _S.GONE,
    (_S.GIVEN_UP, _K.ABORT, END): _S.GONE,
    (_S.GIVEN_UP, _K.CREDIT, 0): _S.GIVEN_UP,
}
"""What a caller may receive."""

REPLICA: Final[Table] = {
    (_S.UPLOADING, _K.DATA, 0): _S.UPLOADING,
    (_S.UPLOADING, _K.DATA, MORE): _S.UPLOADING,
    (_S.UPLOADING, _K.DATA, END): _S.ANSWERING,
    (_S.UPLOADING, _K.CANCEL, END): _S.CANCELLED,
    (_S.UPLOADING, _K.CREDIT, 0): _S.UPLOADING,
    (_S.ANSWERING, _K.CANCEL, END): _S.CANCELLED,
    (_S.ANSWERING, _K.CREDIT, 0): _S.ANSWERING,
    (_S.ABANDONED, _K.DATA, 0): _S.ABANDONED,
    (_S.ABANDONED, _K.DATA, MORE): _S.ABANDONED,
    (_S.ABANDONED, _K.DATA, END): _S.GONE,
    (_S.ABANDONED, _K.CANCEL, END): _S.GONE,
    (_S.ABANDONED, _K.CREDIT, 0): _S.ABANDONED,
}
"""What a replica may receive on a stream that a REQUEST or CALL has opened."""


def _compiled(table: Table) -> dict[int, int]:
    """Return *table* keyed by one plain int: hashing tuples of enum members costs more than all the rest."""
    return {int(state) << 16 | int(kind) << 8 | flags: int(after) for (state, kind, flags), after in table.items()}


_CALLER, _REPLICA = _compiled(CALLER), _compiled(REPLICA)
_GONE, _GIVEN_UP, _ABANDONED = int(State.GONE), int(State.GIVEN_UP), int(State.ABANDONED)
_WAITING, _UPLOADING, _ANSWERING = int(State.WAITING), int(State.UPLOADING), int(State.ANSWERING)
_DATA, _CREDIT, _CANCEL, _CALL = int(Kind.DATA), int(Kind.CREDIT), int(Kind.CANCEL), int(Kind.CALL)
_GOAWAY, _PING = int(Kind.GOAWAY), int(Kind.PING)


class Stream:
    """One stream's state and its two windows.

    Attributes:
        id: Its number on the connection, from 1 upwards.
        state: See `State`.
        send_window: What may be sent of a body before more credit comes.
        recv_window: What the peer may still send.
        space: What is still to be filled of the place where the peer's body is wanted; None: nowhere yet.
    """

    __slots__ = ("id", "recv_window", "send_window", "space", "state")

    def __init__(self, id: int, state: int, *, send_window: int, recv_window: int) -> None:
        self.id = id
        self.state = state
        self.send_window = send_window
        self.recv_window = recv_window
        self.space: memoryview | None = None

    def spend_recv_window(self, size: int) -> None:
        """Count a received DATA frame of *size* bytes.

        Raises:
            ProtocolError: The peer sent more than it had credit for.
        """
        self.recv_window -= size + FRAME_COST
        if self.recv_window < 0:
            raise ProtocolError(f"stream {self.id} overran its credit by {-self.recv_window}")

    def place(self, size: int) -> memoryview | None:
        """Return where the payload of the next DATA frame, of *size* bytes, belongs, if there is such a place."""
        space = self.space
        if space is None or size > len(space):
            return None
        self.space = space[size:]
        return space[:size]

    def fill(self, payload: bytes) -> None:
        """Write the *payload* of a DATA frame to its place, which there is.

        Raises:
            ProtocolError: It does not fit.
        """
        assert self.space is not None
        if len(payload) > len(self.space):
            raise ProtocolError(f"the body of stream {self.id} is longer than was announced")
        self.space[: len(payload)] = payload
        self.space = self.space[len(payload) :]

    def take_credit(self, payload: bytes) -> None:
        """Add what a CREDIT frame gives.

        Raises:
            ProtocolError: It is no number, or too large a one.
        """
        if len(payload) != CREDIT.size:
            raise ProtocolError(f"credit of {len(payload)} bytes")
        self.send_window += CREDIT.unpack(payload)[0]
        if self.send_window > MAX_WINDOW:
            raise ProtocolError(f"credit above {MAX_WINDOW}")


S = TypeVar("S", bound=Stream)


class CallerSession(Generic[S]):
    """The caller's half of a connection: numbers streams, checks what comes back."""

    def __init__(self) -> None:
        self.reader = FrameReader(self._place)
        self._last = 0
        self.streams: dict[int, S] = {}

    def _place(self, id: int, size: int) -> memoryview | None:
        stream = self.streams.get(id)
        return None if stream is None else stream.place(size)

    def next_id(self) -> int:
        """Return the number of the next stream to open."""
        self._last += 1
        return self._last

    def give_up(self, stream: S) -> None:
        """Note that CANCEL is being sent for *stream*."""
        stream.state = _GIVEN_UP

    def refused_above(self, last: int) -> list[S]:
        """Give up the streams above *last*, which GOAWAY says were not accepted, and return them.

        They stay until the replica's REJECT for each has come.

        Raises:
            ProtocolError: One of them was being answered.
        """
        refused = [s for s in self.streams.values() if s.id > last and s.state != _GIVEN_UP]
        for stream in refused:
            if stream.state != _WAITING:
                raise ProtocolError(f"GOAWAY denies stream {stream.id}, which was being answered")
            stream.state = _GIVEN_UP
        return refused

    def feed(self, data: bytes) -> Iterator[tuple[S | None, Frame]]:
        """Do as `accept` with the frames that *data* completes."""
        return self.accept(self.reader.feed(data))

    def accept(self, frames: Iterable[Frame]) -> Iterator[tuple[S | None, Frame]]:
        """Yield each frame that means something, with its stream (None: it speaks of the connection).

        Raises:
            ProtocolError: The peer broke the protocol; close the connection. What came before was yielded.
        """
        streams = self.streams
        for frame in frames:
            kind = frame.kind
            if kind >= _GOAWAY:
                if kind == _PING or frame.flags:
                    raise _unfit(frame, "a caller's connection")
                yield None, frame
                continue
            stream = streams.get(frame.stream)
            if stream is None:
                raise _unfit(frame, "a stream that is not open")
            before = stream.state
            after = _CALLER.get(before << 16 | kind << 8 | frame.flags)
            if after is None:
                raise _unfit(frame, f"a stream that is {State(before).name}")
            stream.state = after
            if before != _GIVEN_UP:
                if kind == _DATA:
                    stream.spend_recv_window(len(frame.payload) + frame.placed)
                elif kind == _CREDIT:
                    stream.take_credit(frame.payload)
            if after == _GONE:
                del streams[frame.stream]
            elif before == _GIVEN_UP:
                continue
            yield stream, frame


class ReplicaSession(Generic[S]):
    """The replica's half of a connection: opens streams as they are asked for, checks what comes in."""

    def __init__(self, make_stream: type[S]) -> None:
        self.reader = FrameReader(self._place)
        self._make_stream = make_stream
        self.last = 0
        self.streams: dict[int, S] = {}

    def feed(self, data: bytes) -> Iterator[tuple[S | None, Frame]]:
        """Do as `accept` with the frames that *data* completes."""
        return self.accept(self.reader.feed(data))

    def accept(self, frames: Iterable[Frame]) -> Iterator[tuple[S | None, Frame]]:
        """Yield each frame that means something, with its stream (None: it speaks of the connection).

        Raises:
            ProtocolError: The peer broke the protocol; close the connection. What came before was yielded.
        """
        for frame in frames:
            kind = frame.kind
            if kind <= _CALL:
                yield self._open(frame), frame
                continue
            stream = self.streams.get(frame.stream)
            if stream is None or kind >= _GOAWAY:
                self._check_without_stream(frame)
                if kind == _PING:
                    yield None, frame
                continue
            before = stream.state
            after = _REPLICA.get(before << 16 | kind << 8 | frame.flags)
            if after is None:
                raise _unfit(frame, f"a stream that is {State(before).name}")
            stream.state = after
            if before == _ABANDONED:
                if after == _GONE:
                    del self.streams[frame.stream]
                continue
            if kind == _DATA:
                stream.spend_recv_window(len(frame.payload) + frame.placed)
            elif kind == _CREDIT:
                stream.take_credit(frame.payload)
            yield stream, frame

    def _place(self, id: int, size: int) -> memoryview | None:
        stream = self.streams.get(id)
        return None if stream is None else stream.place(size)

    def finish(self, stream: S) -> bool:
        """Note that the last frame of *stream* is being sent; False if it was sent before."""
        state = stream.state
        if state == _UPLOADING:
            stream.state = _ABANDONED
            return True
        if state in (_GONE, _ABANDONED):
            return False
        stream.state = _GONE
        del self.streams[stream.id]
        return True

    def _open(self, frame: Frame) -> S:
        if frame.stream <= self.last:
            raise ProtocolError(f"stream {frame.stream} opened after stream {self.last}")
        if frame.flags & MORE:
            raise _unfit(frame, "any stream")
        if len(self.streams) >= MAX_STREAMS:
            raise ProtocolError(f"more than {MAX_STREAMS} streams at once")
        self.last = frame.stream
        state = _ANSWERING if frame.flags & END else _UPLOADING
        stream = self._make_stream(frame.stream, state, send_window=ANSWER_WINDOW, recv_window=0)
        self.streams[frame.stream] = stream
        return stream

    def _check_without_stream(self, frame: Frame) -> None:
        if frame.kind == _PING and not frame.flags:
            return
        # A caller that gives up, or returns credit, may do so while the last frame is on its way.
        if frame.kind in (_CANCEL, _CREDIT) and 0 < frame.stream <= self.last:
            return
        raise _unfit(frame, "a stream that is not open")


def _unfit(frame: Frame, where: str) -> ProtocolError:
    return ProtocolError(f"{Kind(frame.kind).name} with flags {frame.flags} does not fit {where}")
