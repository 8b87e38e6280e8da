"""The streams of one connection, at the caller's end and at the replica's end.

Rule 1: a session takes frames and returns the accepted ones. It knows no socket and no clock.
Rule 2: the tables in `stream_states` decide which frames are allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Generic, TypeVar

from serve_bridge.errors import ProtocolError
from serve_bridge.wire.frames import END, MORE, Frame, FrameReader, Kind
from serve_bridge.wire.stream_states import CALLER, REPLICA, State, Table
from serve_bridge.wire.streams import ANSWER_WINDOW, Stream

MAX_STREAMS: Final = 1 << 16
"""Upper limit for the open streams of one connection."""


def _compiled(table: Table) -> dict[int, int]:
    """Return *table* with one int as the key, because hashing a tuple of enum members costs more than all the rest."""
    return {int(state) << 16 | int(kind) << 8 | flags: int(after) for (state, kind, flags), after in table.items()}


_CALLER, _REPLICA = _compiled(CALLER), _compiled(REPLICA)
_GONE, _GIVEN_UP, _ABANDONED = int(State.GONE), int(State.GIVEN_UP), int(State.ABANDONED)
_WAITING, _UPLOADING, _ANSWERING = int(State.WAITING), int(State.UPLOADING), int(State.ANSWERING)
_DATA, _CREDIT, _CANCEL, _CALL = int(Kind.DATA), int(Kind.CREDIT), int(Kind.CANCEL), int(Kind.CALL)
_GOAWAY, _PING = int(Kind.GOAWAY), int(Kind.PING)

S = TypeVar("S", bound=Stream)


class CallerSession(Generic[S]):
    """The caller's half of a connection. It numbers the streams and checks the replica's frames.

    Attributes:
        reader: Cuts the received bytes into frames.
        streams: The open streams by their numbers.
    """

    def __init__(self) -> None:
        self.reader: FrameReader = FrameReader(self._place)
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
        """Note that the caller sends CANCEL for *stream*."""
        stream.state = _GIVEN_UP

    def refused_above(self, last: int) -> list[S]:
        """Give up the streams above *last*, which the replica has not accepted by its GOAWAY, and return them.

        Each stays open until the replica's REJECT for it arrives.

        Raises:
            ProtocolError: The answer to one of these streams has begun.
        """
        refused = [s for s in self.streams.values() if s.id > last and s.state != _GIVEN_UP]
        for stream in refused:
            if stream.state != _WAITING:
                raise ProtocolError(f"GOAWAY denies stream {stream.id}, which was being answered")
            stream.state = _GIVEN_UP
        return refused

    def feed(self, data: bytes) -> Iterator[tuple[S | None, Frame]]:
        """Accept the frames that *data* completes; see `accept`."""
        return self.accept(self.reader.feed(data))

    def accept(self, frames: Iterable[Frame]) -> Iterator[tuple[S | None, Frame]]:
        """Yield each frame that matters, with its stream; the stream is None for a frame about the connection.

        Raises:
            ProtocolError: The peer broke the protocol, so the connection must close. The frames before were yielded.
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
    """The replica's half of a connection. It opens a stream for each request and checks the caller's frames.

    Attributes:
        reader: Cuts the received bytes into frames.
        last: Number of the last opened stream; 0 if there was none.
        streams: The open streams by their numbers.
    """

    def __init__(self, make_stream: type[S]) -> None:
        self.reader: FrameReader = FrameReader(self._place)
        self._make_stream = make_stream
        self.last: int = 0
        self.streams: dict[int, S] = {}

    def feed(self, data: bytes) -> Iterator[tuple[S | None, Frame]]:
        """Accept the frames that *data* completes; see `accept`."""
        return self.accept(self.reader.feed(data))

    def accept(self, frames: Iterable[Frame]) -> Iterator[tuple[S | None, Frame]]:
        """Yield each frame that matters, with its stream; the stream is None for a frame about the connection.

        Raises:
            ProtocolError: The peer broke the protocol, so the connection must close. The frames before were yielded.
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
        """Note that the replica sends the last frame of *stream*. Return False if it was sent before."""
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
        # A caller may send CANCEL or CREDIT while the last frame is on its way to it.
        if frame.kind in (_CANCEL, _CREDIT) and 0 < frame.stream <= self.last:
            return
        raise _unfit(frame, "a stream that is not open")


def _unfit(frame: Frame, where: str) -> ProtocolError:
    return ProtocolError(f"{Kind(frame.kind).name} with flags {frame.flags} does not fit {where}")
