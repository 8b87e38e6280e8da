"""One data-plane connection on an asyncio loop: the caller's end and the replica's end.

Rule 1: all of a connection is touched from its own loop only.
Rule 2: frames of one loop turn leave in one write.
Rule 3: nothing is read before the handshake is done, and it has a second.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, Protocol

import msgspec

from serve_bridge.errors import AuthenticationError, ProtocolError
from serve_bridge.messages import Rejection
from serve_bridge.wire.auth import HANDSHAKE_TIMEOUT_S, Handshake, Key, Role, Seal
from serve_bridge.wire.frames import END, MAX_LOAD, MORE, Frame, Kind, encode
from serve_bridge.wire.payload import Segment
from serve_bridge.wire.streams import ANSWER_WINDOW, CallerSession, ReplicaSession, State, Stream

CHUNK_BYTES: Final = 64 * 1024
UPLOAD_WINDOW: Final = 1 << 20
_CREDIT = struct.Struct("<I")
_UCRED = struct.Struct("3i")
_logger = logging.getLogger("serve_bridge.wire")

encode_rejection = msgspec.msgpack.Encoder().encode
decode_rejection = msgspec.msgpack.Decoder(Rejection).decode


class Rejected(Exception):  # noqa: N818 - an answer, not an error
    """The replica refused the request before anything ran."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection)
        self.rejection = rejection


class Lost(Exception):  # noqa: N818 - an event
    """The connection ended first. *started* is "no" where that is proved, else "unknown"."""

    def __init__(self, started: str, why: str) -> None:
        super().__init__(started, why)
        self.started = started
        self.why = why


class Aborted(Exception):  # noqa: N818 - an answer, not an error
    """The replica ended the answer before it was whole."""


class _Mailbox:
    """Body chunks that have arrived and not been read; one reader."""

    __slots__ = ("_chunks", "_end", "_waiter")

    def __init__(self) -> None:
        self._chunks: deque[tuple[bytes, bool]] = deque()
        self._end: BaseException | bool = False
        self._waiter: asyncio.Future[None] | None = None

    def put(self, chunk: bytes, *, more: bool) -> None:
        self._chunks.append((chunk, more))
        self._wake()

    def close(self, error: BaseException | None = None) -> None:
        if not self._end:
            self._end = error or True
            self._wake()

    async def get(self) -> tuple[bytes, bool] | None:
        """Return the next chunk and whether its message goes on; None after the last."""
        while not self._chunks:
            if isinstance(self._end, BaseException):
                raise self._end
            if self._end:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._chunks.popleft()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _BodyStream(Stream):
    """A stream whose ends read and write bodies; both ends share this."""

    __slots__ = ("_consumed", "_credit", "_mailbox", "connection")

    connection: _Connection

    def __init__(self, id: int, state: State, *, send_window: int, recv_window: int) -> None:
        super().__init__(id, state, send_window=send_window, recv_window=recv_window)
        self._mailbox: _Mailbox | None = None
        self._credit: asyncio.Future[None] | None = None
        self._consumed = 0

    @property
    def mailbox(self) -> _Mailbox:
        if self._mailbox is None:
            self._mailbox = _Mailbox()
        return self._mailbox

    def may_send(self) -> bool:
        """Whether the peer still takes body bytes on this stream."""
        raise NotImplementedError  # abstract: the two ends end differently

    def add_credit(self, size: int) -> None:
        self.send_window += size
        self._wake_sender()

    def _wake_sender(self) -> None:
        if self._credit is not None and not self._credit.done():
            self._credit.set_result(None)

    async def send_segments(self, segments: Sequence[Segment], *, end: bool) -> None:
        """Send *segments* as one message of DATA frames, as credit and the socket allow."""
        pieces = [piece for segment in segments for piece in _pieces(memoryview(segment).cast("B"))]
        for number, piece in enumerate(pieces, 1):
            await self._send_piece(piece, last=number == len(pieces), end=end)
        if not pieces:
            await self._send_piece(memoryview(b""), last=True, end=end)

    async def _send_piece(self, piece: memoryview, *, last: bool, end: bool) -> None:
        while self.send_window < len(piece) and self.may_send():
            self._credit = asyncio.get_running_loop().create_future()
            await self._credit
        await self.connection.writable()
        if not self.may_send():
            raise Lost("unknown", "the peer wants no more of this body")
        self.send_window -= len(piece)
        flags = (END if end else 0) if last else MORE
        self._send_data(bytes(piece), flags)

    def _send_data(self, piece: bytes, flags: int) -> None:
        self.connection.send(encode(Kind.DATA, self.id, piece, flags))

    async def next_chunk(self) -> bytes | None:
        """Return the next piece of the peer's body, and its credit to the peer; None after the last."""
        while (item := await self.mailbox.get()) is not None:
            self._return_credit(len(item[0]))
            if item[0]:
                return item[0]
        return None

    async def chunks(self) -> AsyncIterator[bytes]:
        """Iterate the peer's body as it arrives."""
        while (chunk := await self.next_chunk()) is not None:
            yield chunk

    async def messages(self) -> AsyncIterator[bytearray]:
        """Iterate the peer's messages, each as one buffer."""
        message = bytearray()
        while (item := await self.mailbox.get()) is not None:
            chunk, more = item
            self._return_credit(len(chunk))
            message += chunk
            if not more:
                yield message
                message = bytearray()

    async def read(self, size: int) -> bytearray:
        """Return the whole body, which the head said has *size* bytes.

        Raises:
            ProtocolError: It has another size.
        """
        body = bytearray()
        async for chunk in self.chunks():
            body += chunk
            if len(body) > size:
                break
        if len(body) != size:
            raise ProtocolError(f"body of {len(body)} bytes where {size} were announced")
        return body

    def _return_credit(self, size: int) -> None:
        self._consumed += size
        # Every frame of credit costs both sides; a quarter of the window keeps the sender busy.
        if self._consumed >= ANSWER_WINDOW // 4 and self.state != State.GONE:
            self.recv_window += self._consumed
            self.connection.send(encode(Kind.CREDIT, self.id, _CREDIT.pack(self._consumed)))
            self._consumed = 0


class CallerStream(_BodyStream):
    """One request at the caller's end.

    Attributes:
        reply: The RESPONSE frame, or `Rejected`, `Lost`, `Aborted`.
        on_done: Called once, with the replica's load, when the replica has spoken its last; frees the slot.
    """

    __slots__ = ("on_done", "reply", "upload")

    connection: CallerConnection

    def __init__(self, id: int, connection: CallerConnection, reply: asyncio.Future[Frame]) -> None:
        super().__init__(id, State.WAITING, send_window=0, recv_window=ANSWER_WINDOW)
        self.connection = connection
        self.reply = reply
        self.on_done: Callable[[int], None] | None = None
        self.upload: asyncio.Task[None] | None = None

    def may_send(self) -> bool:
        return self.state in (State.WAITING, State.STREAMING)

    def cancel(self, error: BaseException | None = None) -> None:
        """Give the answer up: the replica stops the work where it can, *error* reaches who still waits."""
        if self.state in (State.WAITING, State.STREAMING):
            self.connection.give_up(self)
        self.fail(error or asyncio.CancelledError())

    def fail(self, error: BaseException) -> None:
        """Let *error* reach whoever waits for the reply or its body."""
        if not self.reply.done():
            if isinstance(error, asyncio.CancelledError):
                self.reply.cancel()
            else:
                self.reply.set_exception(error)
        if self._mailbox is not None or self.state != State.GONE:
            self.mailbox.close(error)
        self.stop_upload()

    def stop_upload(self) -> None:
        self._wake_sender()
        if self.upload is not None:
            self.upload.cancel()

    def finish(self, load: int) -> None:
        """The last frame has come, or never will."""
        on_done, self.on_done = self.on_done, None
        if on_done is not None:
            on_done(load)


class ReplicaStream(_BodyStream):
    """One request at the replica's end.

    Attributes:
        on_cancel: Called when the caller has given up or gone.
        has_body: Whether the request has a body in DATA frames; else its head is all.
        started: Whether the answer's head has been sent.
    """

    __slots__ = ("_gone", "has_body", "on_cancel", "started")

    connection: ReplicaConnection

    def __init__(self, id: int, state: State, *, send_window: int, recv_window: int) -> None:
        super().__init__(id, state, send_window=send_window, recv_window=recv_window)
        self.on_cancel: Callable[[], object] | None = None
        self.has_body = state == State.UPLOADING
        self.started = False
        self._gone: asyncio.Future[None] | None = None

    def may_send(self) -> bool:
        return self.state in (State.UPLOADING, State.ANSWERING)

    def accept_body(self) -> None:
        """Ask for the request's body; the request cannot be rejected any more."""
        if self.state == State.UPLOADING:
            self.recv_window += UPLOAD_WINDOW
            self.connection.send(encode(Kind.CREDIT, self.id, _CREDIT.pack(UPLOAD_WINDOW)))

    def respond(self, head: bytes, *, end: bool) -> None:
        """Send the answer's head, and with *end* all of the answer."""
        self.started = True
        if end:
            self._finish(Kind.RESPONSE, head)
        elif self.may_send():
            self.connection.send(encode(Kind.RESPONSE, self.id, head, 0, self.connection.load()))

    def reject(self, reason: str, detail: str = "") -> None:
        """Refuse the request; only before anything of it has run."""
        self._finish(Kind.REJECT, encode_rejection(Rejection(reason, detail)))

    def abort(self) -> None:
        """End the answer where it is; the caller sees that it is not whole."""
        self._finish(Kind.ABORT, b"")

    def _send_data(self, piece: bytes, flags: int) -> None:
        if flags & END:
            self._finish(Kind.DATA, piece)
        else:
            self.connection.send(encode(Kind.DATA, self.id, piece, flags, self.connection.load()))

    def _finish(self, kind: Kind, payload: bytes) -> None:
        if self.connection.session.finish(self):
            self.connection.send(encode(kind, self.id, payload, END, self.connection.load()))

    async def gone(self) -> None:
        """Wait until the caller has given up or gone."""
        if self.may_send():
            if self._gone is None:
                self._gone = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._gone)

    def give_up(self) -> None:
        """The caller has gone or cancelled: stop whatever works for it."""
        self._wake_sender()
        if self._mailbox is not None or self.has_body:
            self.mailbox.close(Lost("unknown", "the caller has gone"))
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
        if self.on_cancel is not None:
            self.on_cancel()


class Service(Protocol):
    """What listens behind connections: a replica or the controller."""

    def accept(self, stream: ReplicaStream, frame: Frame, role: Role) -> None:
        """Take or reject the request that opened *stream*."""

    def load(self) -> int:
        """Return how many requests are being served."""


class _Connection(asyncio.Protocol):
    """What both ends share: handshake, seal, coalesced writes, back-pressure."""

    def __init__(self, handshake: Handshake) -> None:
        self._loop = asyncio.get_running_loop()
        self._handshake: Handshake | None = handshake
        self._deadline: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._seal_out: Seal | None = None
        self._seal_in: Seal | None = None
        self._out: list[bytes] = []
        self._paused: asyncio.Future[None] | None = None
        self.closed = False
        self.last_heard = self._loop.time()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]  # uvloop's transports are no subclass
        _check_peer_uid(transport)
        self._deadline = self._loop.call_later(HANDSHAKE_TIMEOUT_S, self._too_slow)
        assert self._handshake is not None
        self._write_raw(self._handshake.start())

    def data_received(self, data: bytes) -> None:
        self.last_heard = self._loop.time()
        try:
            if self._handshake is not None:
                data = self._greet(self._handshake, data)
            if self._seal_in is not None:
                data = self._seal_in.open(data)
            if data:
                self.frames_received(data)
        except (ProtocolError, AuthenticationError) as error:
            self.close(error)

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.close(exc)

    def pause_writing(self) -> None:
        if self._paused is None:
            self._paused = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._paused is not None:
            self._paused.set_result(None)
            self._paused = None

    # for subclasses

    def frames_received(self, data: bytes) -> None:
        raise NotImplementedError  # abstract

    def authenticated(self, role: Role) -> None:
        raise NotImplementedError  # abstract

    def closing(self, error: BaseException | None) -> None:
        raise NotImplementedError  # abstract

    # writing

    def send(self, frame: bytes) -> None:
        """Send *frame* with the others of this loop turn."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(frame)

    async def writable(self) -> None:
        """Wait until the socket takes more."""
        while self._paused is not None:
            await asyncio.shield(self._paused)

    def close(self, error: BaseException | None = None) -> None:
        """Close at once; what is in flight fails. Twice is once."""
        if self.closed:
            return
        self.closed = True
        self._flush()
        if self._deadline is not None:
            self._deadline.cancel()
        self.resume_writing()
        if self._transport is not None:
            if isinstance(error, (ProtocolError, AuthenticationError)):
                _logger.warning("closed a connection: %s", error)
                self._transport.abort()
            else:
                self._transport.close()
        self.closing(error)

    def _flush(self) -> None:
        out = self._out
        if not out:
            return
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self._write_raw(data if self._seal_out is None else self._seal_out.close(data))

    def _write_raw(self, data: bytes) -> None:
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _greet(self, handshake: Handshake, data: bytes) -> bytes:
        """Feed the handshake; return what already belongs to the frames."""
        self._write_raw(handshake.feed(data))
        if not handshake.done:
            return b""
        self._handshake = None
        if self._deadline is not None:
            self._deadline.cancel()
        if not _is_unix(self._transport):
            self._seal_out, self._seal_in = handshake.seals()
        self.authenticated(handshake.peer_role)
        return handshake.rest

    def _too_slow(self) -> None:
        self.close(AuthenticationError(f"no valid handshake within {HANDSHAKE_TIMEOUT_S} s"))


class CallerConnection(_Connection):
    """The caller's end: opens streams.

    Attributes:
        ready: Done once the listener has proved itself; fails with `Lost` or `AuthenticationError`.
        going_away: The listener takes no new streams.
        on_change: Called when the connection closes or the listener goes away.
    """

    def __init__(self, key: Key, role: Role, identity: bytes) -> None:
        super().__init__(Handshake(key, role, identity, caller=True))
        self.session = CallerSession()
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.going_away = False
        self.on_change: Callable[[], None] | None = None

    def open(self, kind: Kind, head: bytes, *, end: bool) -> CallerStream:
        """Send a request's head, and with *end* all of it.

        Raises:
            Lost: The connection takes no new streams; nothing was sent.
        """
        if self.closed or self.going_away:
            raise Lost("no", "the connection was closing")
        stream = CallerStream(self.session.next_id(), self, self._loop.create_future())
        self.session.streams[stream.id] = stream
        self.send(encode(kind, stream.id, head, END if end else 0))
        return stream

    def give_up(self, stream: CallerStream) -> None:
        """Send CANCEL for *stream*."""
        self.session.give_up(stream)
        self.send(encode(Kind.CANCEL, stream.id, b"", END))

    def ping(self) -> None:
        """Ask for a sign of life; `last_heard` moves when it comes."""
        self.send(encode(Kind.PING, 0))

    def frames_received(self, data: bytes) -> None:
        for stream, frame in self.session.feed(data):
            if stream is None:
                self._control_received(frame)
                continue
            assert isinstance(stream, CallerStream)
            kind = frame.kind
            if kind == Kind.RESPONSE:
                if not stream.reply.done():
                    stream.reply.set_result(frame)
            elif kind == Kind.DATA:
                stream.mailbox.put(frame.payload, more=bool(frame.flags & MORE))
                if frame.flags & END:
                    stream.mailbox.close()
            elif kind == Kind.CREDIT:
                stream.add_credit(*_CREDIT.unpack(frame.payload))
            elif kind == Kind.REJECT:
                stream.fail(Rejected(decode_rejection(frame.payload)))
            elif kind == Kind.ABORT:
                stream.fail(Aborted())
            if stream.state == State.GONE:
                self._finished(stream, frame)

    def authenticated(self, role: Role) -> None:
        if not self.ready.done():
            self.ready.set_result(None)

    def closing(self, error: BaseException | None) -> None:
        if not self.ready.done():
            refused = isinstance(error, AuthenticationError)
            self.ready.set_exception(error if refused and error else Lost("no", "the connection was refused"))
            self.ready.exception()  # whoever connects may have gone
        streams = list(self.session.streams.values())
        self.session.streams.clear()
        for stream in streams:
            assert isinstance(stream, CallerStream)
            stream.state = State.GONE
            stream.fail(Lost("unknown", str(error) if error else "the replica closed the connection"))
            stream.finish(0)
        if self.on_change is not None:
            self.on_change()

    def _finished(self, stream: CallerStream, frame: Frame) -> None:
        if stream.upload is not None and not stream.upload.done():
            self.send(encode(Kind.CANCEL, stream.id, b"", END))
            stream.stop_upload()
        stream.finish(frame.load)

    def _control_received(self, frame: Frame) -> None:
        if frame.kind != Kind.GOAWAY:
            return  # PONG: last_heard has moved already
        self.going_away = True
        refused = [s for s in self.session.streams.values() if s.id > frame.stream]
        for stream in refused:
            assert isinstance(stream, CallerStream)
            del self.session.streams[stream.id]
            stream.state = State.GONE
            stream.fail(Lost("no", "the replica is going away"))
            stream.finish(0)
        if self.on_change is not None:
            self.on_change()


class ReplicaConnection(_Connection):
    """The listening end: hands each request to its service."""

    def __init__(self, key: Key, identity: bytes, service: Service, open_connections: set[ReplicaConnection]) -> None:
        super().__init__(Handshake(key, Role.LISTENER, identity, caller=False))
        self.session = ReplicaSession(ReplicaStream)
        self._service = service
        self._role = Role.EDGE
        self._open = open_connections
        self._open.add(self)

    def load(self) -> int:
        """Return the service's load as a frame carries it."""
        return min(self._service.load(), MAX_LOAD)

    def go_away(self) -> None:
        """Say that no further stream will be accepted."""
        if self._handshake is None:
            self.send(encode(Kind.GOAWAY, self.session.last))

    def frames_received(self, data: bytes) -> None:
        for stream, frame in self.session.feed(data):
            kind = frame.kind
            if stream is None:
                if kind == Kind.PING:
                    self.send(encode(Kind.PONG, 0, b"", 0, self.load()))
                continue
            assert isinstance(stream, ReplicaStream)
            if kind == Kind.REQUEST or kind == Kind.CALL:
                stream.connection = self
                if kind == Kind.CALL and self._role != Role.PYTHON:
                    raise ProtocolError("CALL from a caller of the role edge")
                self._service.accept(stream, frame, self._role)
            elif kind == Kind.DATA:
                stream.mailbox.put(frame.payload, more=bool(frame.flags & MORE))
                if frame.flags & END:
                    stream.mailbox.close()
            elif kind == Kind.CREDIT:
                stream.add_credit(*_CREDIT.unpack(frame.payload))
            elif kind == Kind.CANCEL:
                stream.give_up()

    def authenticated(self, role: Role) -> None:
        self._role = role

    def closing(self, error: BaseException | None) -> None:
        self._open.discard(self)
        streams = list(self.session.streams.values())
        self.session.streams.clear()
        for stream in streams:
            assert isinstance(stream, ReplicaStream)
            stream.state = State.GONE
            stream.give_up()


def _pieces(view: memoryview) -> list[memoryview]:
    return [view[start : start + CHUNK_BYTES] for start in range(0, len(view), CHUNK_BYTES)]


def _is_unix(transport: Any) -> bool:
    sock = transport.get_extra_info("socket")
    return sock is not None and sock.family == socket.AF_UNIX


def _check_peer_uid(transport: Any) -> None:
    """Refuse a unix peer of another user (SO_PEERCRED, Linux)."""
    if not _is_unix(transport) or not hasattr(socket, "SO_PEERCRED"):
        return
    sock = transport.get_extra_info("socket")
    _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    if uid != os.geteuid():
        transport.abort()
        _logger.warning("closed a connection: the peer is user %d", uid)
