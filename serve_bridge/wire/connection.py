"""One data-plane connection on an asyncio loop: the caller's end and the replica's end.

Rule 1: a stream's slot is given back exactly once, by `on_done`: when the replica has spoken its last, or
    never will.
Rule 2: a request that ends with the connection is "unknown", unless GOAWAY has denied it or no byte of it was
    written.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, Protocol

import msgspec

from serve_bridge.errors import AuthenticationError, ProtocolError
from serve_bridge.messages import Rejection, decoder
from serve_bridge.wire.auth import Handshake, Key, Role
from serve_bridge.wire.body import Aborted, BodyStream, Lost, Rejected
from serve_bridge.wire.frames import END, MAX_LOAD, Frame, Kind, encode, encode_header
from serve_bridge.wire.payload import Segment
from serve_bridge.wire.streams import ANSWER_WINDOW, FRAME_COST, CallerSession, ReplicaSession, State
from serve_bridge.wire.transport import FLUSH_PIECES, UNCOPIED_BYTES, FrameTransport, check_peer_uid

__all__ = [
    "Aborted",
    "CallerConnection",
    "CallerStream",
    "Lost",
    "Rejected",
    "ReplicaConnection",
    "ReplicaStream",
    "Service",
    "check_peer_uid",
    "decode_rejection",
]

UPLOAD_WINDOW: Final = 1 << 20

_GONE, _WAITING, _STREAMING = int(State.GONE), int(State.WAITING), int(State.STREAMING)
_UPLOADING, _ANSWERING = int(State.UPLOADING), int(State.ANSWERING)
_CALL, _DATA, _RESPONSE = int(Kind.CALL), int(Kind.DATA), int(Kind.RESPONSE)
_REJECT, _CANCEL, _CREDIT = int(Kind.REJECT), int(Kind.CANCEL), int(Kind.CREDIT)
_GOAWAY = int(Kind.GOAWAY)

_TOO_EARLY: Final = "the answer was sent before the whole body had come"

_encode_rejection = msgspec.msgpack.Encoder().encode
decode_rejection = decoder(Rejection)


class CallerStream(BodyStream):
    """One request at the caller's end.

    Attributes:
        reply: The RESPONSE frame, or `Rejected`, `Lost`, `Aborted`.
        uploading: Whether the end of the request's body is still to be sent.
        opened: The connection's `writes` when it was opened; while that is the same, nothing of it was written.
        on_done: Called once, with the replica's load, when the replica has spoken its last; frees the slot.
    """

    __slots__ = ("_upload", "on_done", "opened", "reply", "uploading")

    connection: CallerConnection

    def __init__(self, id: int, connection: CallerConnection, reply: asyncio.Future[Frame], *, uploading: bool) -> None:
        super().__init__(id, _WAITING, send_window=0, recv_window=ANSWER_WINDOW)
        self.connection = connection
        self.reply = reply
        self.uploading = uploading
        self.opened = connection.writes
        self.on_done: Callable[[int], None] | None = None
        self._upload: asyncio.Task[None] | None = None

    def may_send(self) -> bool:
        """Whether the replica still takes body bytes."""
        return self.state == _WAITING or self.state == _STREAMING

    def may_receive(self) -> bool:
        """Whether more of the answer may come."""
        return self.state == _STREAMING

    def start_upload(self, body: Sequence[Segment] | AsyncIterator[bytes]) -> None:
        """Send the request's body in a task; nothing is taken from *body* before the request is accepted."""
        self._upload = asyncio.get_running_loop().create_task(self._send_body(body))

    def cancel(self, error: BaseException | None = None) -> None:
        """Give the answer up: the replica stops the work where it can, *error* reaches who still waits."""
        if self.state == _GONE:
            return
        if self.may_send():
            self.connection.give_up(self)
        self.fail(error)

    def fail(self, error: BaseException | None) -> None:
        """Let *error* reach whoever waits for the reply or its body."""
        if not self.reply.done():
            if error is None:
                self.reply.cancel()
            else:
                self.reply.set_exception(error)
                self.reply.exception()  # whoever asked may have gone: then it is no news to anybody
        self.end_body(error or Aborted())
        self._stop_upload()

    def answered(self, frame: Frame) -> None:
        """The answer's head has come."""
        if frame.flags & END:
            self.end_body()
        if not self.reply.done():
            self.reply.set_result(frame)

    def finish(self, load: int) -> None:
        """The last frame has come, or never will."""
        self._stop_upload()
        on_done, self.on_done = self.on_done, None
        if on_done is not None:
            on_done(load)

    def _stop_upload(self) -> None:
        self.wake_sender()
        if self._upload is not None:
            self._upload.cancel()

    def _send_data(self, piece: bytes | memoryview, flags: int) -> None:
        if flags & END:
            self.uploading = False
        super()._send_data(piece, flags)

    async def _send_body(self, body: Sequence[Segment] | AsyncIterator[bytes]) -> None:
        try:
            await self.accepted()
            if isinstance(body, AsyncIterator):
                async for chunk in body:
                    await self.send_segments([chunk], end=False)
                body = []
            await self.send_segments(body, end=True)
        except Exception as error:
            # Either the exchange has ended, and the reply says how; or the source of the body broke.
            if self.may_send():
                self.cancel(error)


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
        self._finish(Kind.REJECT, _encode_rejection(Rejection(reason, detail)))

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


class CallerConnection(FrameTransport):
    """The caller's end: opens streams.

    Attributes:
        ready: Done once the listener has proved itself; fails with `Lost` or `AuthenticationError`.
        going_away: The listener takes no new streams; the connection closes itself after the last one.
        on_change: Called when the connection closes or the listener goes away.
    """

    def __init__(self, key: Key, role: Role, identity: bytes) -> None:
        self.session: CallerSession[CallerStream] = CallerSession()
        super().__init__(Handshake(key, role, identity, caller=True), self.session.reader)
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.going_away = False
        self.on_change: Callable[[], None] | None = None

    @property
    def usable(self) -> bool:
        """Whether `open` can succeed."""
        return not (self.closed or self.going_away)

    def open(self, kind: Kind, head: bytes, *, end: bool) -> CallerStream:
        """Send a request's head, and with *end* all of it.

        Raises:
            Lost: The connection takes no new streams; nothing was sent.
            SerializationError: *head* is too large for a frame; nothing was sent.
        """
        if self.closed or self.going_away:
            raise Lost("no", "the connection was closing")
        id = self.session.next_id()
        frame = encode(kind, id, head, END if end else 0)
        stream = CallerStream(id, self, self._loop.create_future(), uploading=not end)
        self.session.streams[id] = stream
        self.send(frame)
        return stream

    def give_up(self, stream: CallerStream) -> None:
        """Send CANCEL for *stream*."""
        self.session.give_up(stream)
        self._send_cancel(stream)

    def ping(self) -> None:
        """Ask for a sign of life; `last_heard` moves when it comes."""
        self.send(encode(Kind.PING, 0))

    def frames_received(self, data: bytes) -> None:
        """Hand each frame to its stream."""
        for stream, frame in self.session.feed(data):
            kind = frame.kind
            if stream is None:
                if kind == _GOAWAY:
                    self._refused_above(frame.stream)
                continue  # PONG: last_heard has moved already
            if kind == _RESPONSE:
                stream.answered(frame)
            elif kind == _DATA:
                stream.put(frame)
            elif kind == _CREDIT:
                stream.wake_sender()
            elif kind == _REJECT:
                stream.fail(rejected(frame))
            else:
                stream.fail(Aborted())
            if stream.state == _GONE:
                self._finished(stream, frame.load)

    def is_quiet(self) -> bool:
        """Whether there is one request on this connection at most."""
        return len(self.session.streams) < 2

    def authenticated(self, role: Role) -> None:
        """Let whoever dialled go on."""
        if not self.ready.done():
            self.ready.set_result(None)

    def closing(self, error: BaseException | None) -> None:
        """Fail what is in flight."""
        if not self.ready.done():
            refused = error if isinstance(error, AuthenticationError) else None
            self.ready.set_exception(refused or Lost("no", str(error or "the connection was refused")))
            self.ready.exception()  # whoever connects may have gone
        streams = list(self.session.streams.values())
        self.session.streams.clear()
        for stream in streams:
            stream.state = _GONE
            started = "no" if stream.opened == self.writes else "unknown"
            stream.fail(Lost(started, str(error or "the connection was closed")))
            stream.finish(0)
        if self.on_change is not None:
            self.on_change()

    def _finished(self, stream: CallerStream, load: int) -> None:
        if stream.uploading:
            self._send_cancel(stream)
        stream.finish(load)
        self._close_if_done()

    def _send_cancel(self, stream: CallerStream) -> None:
        stream.uploading = False
        self.send(encode(Kind.CANCEL, stream.id, b"", END))

    def _refused_above(self, last: int) -> None:
        """GOAWAY has come: nothing above *last* was or will be accepted."""
        self.going_away = True
        for stream in self.session.refused_above(last):
            stream.fail(Lost("no", "the replica is going away"))
            stream.finish(0)
        if self.on_change is not None:
            self.on_change()
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self.going_away and not self.session.streams:
            self.close()


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

    def load(self) -> int:
        """Return the service's load as a frame carries it."""
        return min(self._service.load(), MAX_LOAD)

    def go_away(self) -> None:
        """Say that no further stream will be accepted, and keep to it."""
        if self._handshake is None and not self._going_away:
            self._going_away = True
            self.send(encode(Kind.GOAWAY, self.session.last))

    def frames_received(self, data: bytes) -> None:
        """Hand each new request to the service, and every other frame to its stream."""
        for stream, frame in self.session.feed(data):
            kind = frame.kind
            if stream is None:
                self.send(encode(Kind.PONG, 0, b"", 0, self.load()))
            elif kind <= _CALL:
                stream.connection = self
                if kind == _CALL and self._role != Role.PYTHON:
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

    def is_quiet(self) -> bool:
        """Whether there is one request on this connection at most."""
        return len(self.session.streams) < 2

    def authenticated(self, role: Role) -> None:
        """Remember what the caller may do."""
        self._role = role

    def closing(self, error: BaseException | None) -> None:
        """Stop what works for callers that have gone."""
        self._open.discard(self)
        streams = list(self.session.streams.values())
        self.session.streams.clear()
        for stream in streams:
            stream.state = _GONE
            stream.give_up()


def rejected(frame: Frame) -> Rejected | Lost:
    """Return what a REJECT frame says, to be raised."""
    try:
        return Rejected(decode_rejection(frame.payload))
    except ProtocolError as error:
        return Lost("unknown", str(error))
