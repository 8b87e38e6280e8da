"""The listening end of a data-plane connection on an asyncio loop, and its requests; for replicas and the controller.

Rule 1: each request gets exactly one last frame: an answer with END, REJECT, or ABORT.
Rule 2: if a caller goes away, the work for it is stopped.
Rule 3: if a caller does not read its answers, this end does not read its requests. If the caller reads nothing for
    `STUCK_S`, the connection closes. Only this end stops reading; if both ends did, they could wait for each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from serve_bridge.config.tls import Tls
from serve_bridge.errors import ProtocolError
from serve_bridge.wire.body import BodyStream
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.frame_writer import FLUSH_PIECES, UNCOPIED_BYTES
from serve_bridge.wire.frames import END, MAX_LOAD, Frame, Kind, encode, encode_header
from serve_bridge.wire.handshake import Handshake
from serve_bridge.wire.heads import Rejection, encode_head
from serve_bridge.wire.keys import Key, Role
from serve_bridge.wire.sessions import ReplicaSession
from serve_bridge.wire.stream_states import State
from serve_bridge.wire.streams import FRAME_COST
from serve_bridge.wire.tls import TlsHandshake, handshake_of_listener
from serve_bridge.wire.transport import FrameTransport

UPLOAD_WINDOW: Final = 1 << 20
"""Bytes of a request's body that a caller may send before the replica gives more credit."""
CALM_UNREAD_BYTES: Final = 1 << 20
"""Upper limit for the bytes that a caller has not read. Above it, this end stops reading the caller's requests."""
STUCK_S: Final = 30.0
"""Seconds after which the connection of a caller closes, if bytes wait for it and it reads none of them."""

_GONE, _UPLOADING, _ANSWERING = int(State.GONE), int(State.UPLOADING), int(State.ANSWERING)
_CALL, _DATA = int(Kind.CALL), int(Kind.DATA)
_CANCEL, _CREDIT = int(Kind.CANCEL), int(Kind.CREDIT)

GOAWAY_IN_HANDSHAKE: Final = 3
"""The first version of the protocol whose callers expect GOAWAY right behind the listener's proof."""
_TOO_EARLY: Final = "the answer was sent before the whole body had arrived"


class ReplicaStream(BodyStream):
    """One request at the replica's end.

    Attributes:
        on_cancel: Called when the caller has given up or gone. It may cancel a task before the task's first step, so
            clean-up belongs in a callback of the task.
        has_body: Whether DATA frames follow the head of the request.
        started: Whether the head of the answer was sent.
    """

    __slots__ = ("_gone", "has_body", "on_cancel", "started")

    connection: ReplicaConnection

    def __init__(self, id: int, state: int, *, send_window: int, recv_window: int) -> None:
        super().__init__(id, state, send_window=send_window, recv_window=recv_window)
        self.on_cancel: Callable[[], object] | None = None
        self.has_body: bool = state == _UPLOADING
        self.started: bool = False
        self._gone: asyncio.Future[None] | None = None
        if not self.has_body:
            self.end_body()

    def may_send(self) -> bool:
        """Return whether the caller still wants the answer."""
        return self.state == _UPLOADING or self.state == _ANSWERING

    def may_receive(self) -> bool:
        """Return whether more of the body may arrive."""
        return self.state == _UPLOADING

    def accept_body(self) -> None:
        """Ask for the request's body. The replica must not reject the request afterwards."""
        if self.state == _UPLOADING:
            self.give_credit(UPLOAD_WINDOW)

    def respond(self, head: bytes, *, end: bool) -> None:
        """Send the head of the answer. With *end*, the head is the whole answer.

        Raises:
            SerializationError: *head* is too large for a frame. Nothing was sent.
        """
        if end:
            self._finish(Kind.RESPONSE, head)
        elif self.may_send():
            self.connection.send(encode(Kind.RESPONSE, self.id, head, 0, self.connection.load()))
        self.started = True

    def offer(self, piece: bytes) -> bool:
        """Send a *piece* of the answer's body if that needs no wait. Return whether it was sent.

        This is a faster way than `send_segments` for short events and tokens.
        """
        size = len(piece)
        left = self.send_window - size - FRAME_COST
        if left < 0 or not 0 < size < UNCOPIED_BYTES or self.state != _ANSWERING or self.connection.paused is not None:
            return False
        self.send_window = left
        self.connection.send(encode_header(_DATA, self.id, size) + piece, FLUSH_PIECES)
        return True

    def reject(self, reason: str, detail: str = "") -> None:
        """Refuse the request. Only a request whose work has not started may be refused."""
        self._finish(Kind.REJECT, encode_head(Rejection(reason, detail)))

    def abort(self) -> None:
        """End the answer early. The caller learns that it is incomplete."""
        self._finish(Kind.ABORT, b"")

    async def gone(self) -> None:
        """Wait until the caller gives up or goes away, or the answer was sent."""
        if self.may_send():
            if self._gone is None:
                self._gone = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._gone)

    def give_up(self) -> None:
        """Stop the work of this request, because the caller has cancelled it or gone."""
        self._stop("the caller has gone")
        if self.on_cancel is not None:
            # At once, so that a request whose CANCEL arrives right behind it does not start.
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
    """The service behind listening sockets: a replica, a proxy or the controller."""

    def accept(self, stream: ReplicaStream, frame: Frame, role: Role) -> None:
        """Start or reject the request that opened *stream*."""

    def load(self) -> int:
        """Return the number of running requests."""


class ReplicaConnection(FrameTransport):
    """The listening end of a connection, which gives each request to its service.

    Attributes:
        session: The open streams.
        is_going_away: Whether new streams are rejected.
    """

    def __init__(
        self,
        key: Key,
        identity: bytes,
        service: Service,
        open_connections: dict[ReplicaConnection, None],
        *,
        alias: bytes = b"",
        tls: Tls | None = None,
    ) -> None:
        """Serve a caller; *tls*: the files for TLS, if the connection uses it."""
        self.session: ReplicaSession[ReplicaStream] = ReplicaSession(ReplicaStream)
        super().__init__(handshake_of_listener(key, identity, alias, tls), self.session.reader)
        self._service = service
        self._role = Role.EDGE
        self.is_going_away: bool = False
        self._has_denied = False
        self._open = open_connections
        self._open[self] = None
        self._watch: asyncio.TimerHandle | None = None

    def load(self) -> int:
        """Return the service's load, at most `MAX_LOAD`."""
        return min(self._service.load(), MAX_LOAD)

    @property
    def is_in_handshake(self) -> bool:
        """Whether the caller is not authenticated yet."""
        return self._handshake is not None

    def go_away(self) -> None:
        """Send GOAWAY, and reject new streams from now on.

        During a handshake, GOAWAY follows the listener's proof at once. The caller's proof may arrive too late, with a
        request behind it.
        """
        if not self.is_going_away:
            self.is_going_away = True
            if self._handshake is not None:
                self.greeted(self._handshake)
            else:
                self._deny_rest()

    def leave(self) -> None:
        """Close if the caller cannot have sent a request yet, because it waits for this end's hello; else go away."""
        if self._handshake is not None and not self._handshake.has_peer_hello:
            self.close()
        else:
            self.go_away()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake, unless the listener has left since it accepted the connection."""
        super().connection_made(transport)
        if self.is_going_away:
            self.close()

    def greeted(self, handshake: Handshake | TlsHandshake) -> None:
        """Send GOAWAY behind this end's proof if the listener is going away, and the caller understands it there."""
        if self.is_going_away and handshake.has_peer_hello and handshake.version >= GOAWAY_IN_HANDSHAKE:
            if self.is_sealed() and self._seal_out is None:
                self._seal_out, _ = handshake.seals()
            self._deny_rest()

    def _deny_rest(self) -> None:
        if not self._has_denied:
            self._has_denied = True
            self.send(encode(Kind.GOAWAY, self.session.last))

    def frames_received(self, frames: Iterable[Frame]) -> None:
        """Give each new request to the service, and each other frame to its stream."""
        for stream, frame in self.session.accept(frames):
            if self.closed:  # because the unread answers have exceeded their limit
                return
            kind = frame.kind
            if stream is None:
                self.send(encode(Kind.PONG, 0, b"", 0, self.load()))
            elif kind <= _CALL:
                stream.connection = self
                if kind == _CALL and self._role == Role.EDGE:
                    raise ProtocolError("CALL from a caller of the role edge")
                if self.is_going_away:
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
        """Watch whether the caller still reads."""
        super().pause_writing()
        if self._watch is None and not self.closed:
            self._look_later()

    def resume_writing(self) -> None:
        """Continue with the caller's requests, because it has read all answers."""
        super().resume_writing()
        self.read_on()

    def backed_up(self, unread: int) -> None:
        """Stop reading the requests of a caller that has too many unread bytes."""
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
        """Return whether the connection has at most one request."""
        return len(self.session.streams) < 2

    def authenticated(self, role: Role) -> None:
        """Remember the caller's role."""
        self._role = role
        if self.is_going_away:
            self._deny_rest()

    def closing(self, error: BaseException | None) -> None:
        """Stop the work of the caller's requests."""
        self._open.pop(self, None)
        if self._watch is not None:
            self._watch.cancel()
        streams = list(self.session.streams.values())
        self.session.streams.clear()
        for stream in streams:
            stream.state = _GONE
            stream.give_up()
