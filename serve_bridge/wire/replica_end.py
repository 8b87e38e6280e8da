"""The replica's end of a data-plane connection on an asyncio loop, and of the requests on it; the controller's, too.

Rule 1: each request gets exactly one last frame: an answer with END, REJECT, or ABORT.
Rule 2: whatever works for a caller is stopped when that has gone.
Rule 3: the requests of a caller that does not read its answers stay in the socket. If it goes on so, it is cut off.
    Only this end stops reading: if both ends did, each might wait for the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from serve_bridge.errors import ProtocolError
from serve_bridge.wire.body import BodyStream
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.frames import END, MAX_LOAD, Frame, Kind, encode, encode_header
from serve_bridge.wire.handshake import Handshake
from serve_bridge.wire.heads import Rejection, encode_head
from serve_bridge.wire.keys import Key, Role
from serve_bridge.wire.sessions import ReplicaSession
from serve_bridge.wire.stream_states import State
from serve_bridge.wire.streams import FRAME_COST
from serve_bridge.wire.transport import FLUSH_PIECES, UNCOPIED_BYTES, FrameTransport

UPLOAD_WINDOW: Final = 1 << 20
CALM_UNREAD_BYTES: Final = 1 << 20
"""Upper limit for a caller's unread bytes while its requests are read."""
STUCK_S: Final = 30.0
"""Seconds after which a caller that has bytes to read, and reads none of them, is cut off."""

_GONE, _UPLOADING, _ANSWERING = int(State.GONE), int(State.UPLOADING), int(State.ANSWERING)
_CALL, _DATA = int(Kind.CALL), int(Kind.DATA)
_CANCEL, _CREDIT = int(Kind.CANCEL), int(Kind.CREDIT)

_TOO_EARLY: Final = "the answer was sent before the whole body had come"


class ReplicaStream(BodyStream):
    """One request at the replica's end.

    Attributes:
        on_cancel: Called when the caller has given up or gone. A task that it cancels may not have had its first step,
            so what must be done in the end belongs in a callback of the task.
        has_body: Whether the request has a body in DATA frames; else its head is all.
        started: Whether the answer's head has been sent.
    """

    __slots__ = ("_gone", "has_body", "on_cancel", "started")

    connection: ReplicaConnection

    def __init__(self, id: int, state: int, *, send_window: int, recv_window: int) -> None:
        super().__init__(id, state, send_window=send_window, recv_window=recv_window)
        self.on_cancel: Callable[[], object] | None = None
        self.has_body = state == _UPLOADING
        self.started = False
        self._gone: asyncio.Future[None] | None = None
        if not self.has_body:
            self.end_body()

    def may_send(self) -> bool:
        """Whether the caller still wants the answer."""
        return self.state == _UPLOADING or self.state == _ANSWERING

    def may_receive(self) -> bool:
        """Whether more of the body may come."""
        return self.state == _UPLOADING

    def accept_body(self) -> None:
        """Ask for the request's body; the request cannot be rejected any more."""
        if self.state == _UPLOADING:
            self.give_credit(UPLOAD_WINDOW)

    def respond(self, head: bytes, *, end: bool) -> None:
        """Send the answer's head, and with *end* all of the answer.

        Raises:
            SerializationError: *head* is too large for a frame; nothing was sent.
        """
        if end:
            self._finish(Kind.RESPONSE, head)
        elif self.may_send():
            self.connection.send(encode(Kind.RESPONSE, self.id, head, 0, self.connection.load()))
        self.started = True

    def offer(self, piece: bytes) -> bool:
        """Send the *piece* of the answer's body if nothing has to be waited for; return whether it was sent.

        This is the short way for events and tokens, which `send_segments` sends too.
        """
        size = len(piece)
        left = self.send_window - size - FRAME_COST
        if left < 0 or not 0 < size < UNCOPIED_BYTES or self.state != _ANSWERING or self.connection.paused is not None:
            return False
        self.send_window = left
        self.connection.send(encode_header(_DATA, self.id, size) + piece, FLUSH_PIECES)
        return True

    def reject(self, reason: str, detail: str = "") -> None:
        """Refuse the request; only before anything of it has run."""
        self._finish(Kind.REJECT, encode_head(Rejection(reason, detail)))

    def abort(self) -> None:
        """End the answer where it is; the caller sees that it is not whole."""
        self._finish(Kind.ABORT, b"")

    async def gone(self) -> None:
        """Wait until the caller has given up or gone, or the answer was sent."""
        if self.may_send():
            if self._gone is None:
                self._gone = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._gone)

    def give_up(self) -> None:
        """The caller has gone or cancelled: stop whatever works for it."""
        self._stop("the caller has gone")
        if self.on_cancel is not None:
            # Now: a request that came with its own CANCEL behind it must not start.
            self.on_cancel()

    def _send_data(self, piece: bytes | memoryview, flags: int) -> None:
        if not flags & END:
            super()._send_data(piece, flags)
            return
        header = encode_header(Kind.DATA, self.id, len(piece), flags, self.connection.load())
        if self.connection.session.finish(self):
            self.connection.send_piece(header, piece)
            self._stop(_TOO_EARLY)

    def _finish(self, kind: Kind, payload: bytes) -> None:
        frame = encode(kind, self.id, payload, END, self.connection.load())
        if self.connection.session.finish(self):
            self.connection.send(frame)
            self._stop(_TOO_EARLY)

    def _stop(self, why: str) -> None:
        if not self.body_ended:
            self.end_body(Lost("unknown", why))
        self.wake_sender()
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)


class Service(Protocol):
    """What listens behind connections: a replica or the controller."""

    def accept(self, stream: ReplicaStream, frame: Frame, role: Role) -> None:
        """Take or reject the request that opened *stream*."""

    def load(self) -> int:
        """Return how many requests are being served."""


class ReplicaConnection(FrameTransport):
    """The listening end: hands each request to its service."""

    def __init__(self, key: Key, identity: bytes, service: Service, open_connections: set[ReplicaConnection]) -> None:
        self.session = ReplicaSession(ReplicaStream)
        super().__init__(Handshake(key, Role.LISTENER, identity, caller=False), self.session.reader)
        self._service = service
        self._role = Role.EDGE
        self._going_away = False
        self._open = open_connections
        self._open.add(self)
        self._watch: asyncio.TimerHandle | None = None

    def load(self) -> int:
        """Return the service's load as a frame carries it."""
        return min(self._service.load(), MAX_LOAD)

    def go_away(self) -> None:
        """Say that no further stream will be accepted, and keep to it."""
        if self._handshake is None and not self._going_away:
            self._going_away = True
            self.send(encode(Kind.GOAWAY, self.session.last))

    def frames_received(self, frames: Iterable[Frame]) -> None:
        """Hand each new request to the service, and every other frame to its stream."""
        for stream, frame in self.session.accept(frames):
            if self.closed:  # since one of the answers was too much
                return
            kind = frame.kind
            if stream is None:
                self.send(encode(Kind.PONG, 0, b"", 0, self.load()))
            elif kind <= _CALL:
                stream.connection = self
                if kind == _CALL and self._role == Role.EDGE:
                    raise ProtocolError("CALL from a caller of the role edge")
                if self._going_away:
                    stream.reject("draining")
                else:
                    self._service.accept(stream, frame, self._role)
            elif kind == _DATA:
                stream.put(frame)
            elif kind == _CREDIT:
                stream.wake_sender()
            elif kind == _CANCEL:
                stream.give_up()

    def pause_writing(self) -> None:
        """Watch whether the caller reads at all."""
        super().pause_writing()
        if self._watch is None and not self.closed:
            self._look_later()

    def resume_writing(self) -> None:
        """The caller has read everything: go on with its requests."""
        super().resume_writing()
        self.read_on()

    def backed_up(self, unread: int) -> None:
        """Read no more requests of a caller that has much to read."""
        if unread > CALM_UNREAD_BYTES:
            self.stop_reading()

    def _look_later(self) -> None:
        self._watch = self._loop.call_later(STUCK_S, self._look, self.written - self.unread())

    def _look(self, read_before: int) -> None:
        self._watch = None
        if self.closed or self.paused is None:
            return
        if self.written - self.unread() == read_before:
            self.close(TimeoutError(f"the peer has read nothing for {STUCK_S:g} s; {self.unread()} bytes wait"))
        else:
            self._look_later()

    def is_quiet(self) -> bool:
        """Whether there is one request on this connection at most."""
        return len(self.session.streams) < 2

    def authenticated(self, role: Role) -> None:
        """Remember what the caller may do."""
        self._role = role

    def closing(self, error: BaseException | None) -> None:
        """Stop what works for callers that have gone."""
        self._open.discard(self)
        if self._watch is not None:
            self._watch.cancel()
        streams = list(self.session.streams.values())
        self.session.streams.clear()
        for stream in streams:
            stream.state = _GONE
            stream.give_up()
