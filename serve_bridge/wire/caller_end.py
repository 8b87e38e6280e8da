"""The caller's end of a data-plane connection on an asyncio loop, and its requests.

Rule 1: a stream releases its slot exactly once, by `on_done`: when the last frame has arrived, or can never arrive.
Rule 2: if the connection ends during a request, it is "unknown" whether the request ran. It is "no" only if GOAWAY has
    denied the request, or no byte of it was written.
Rule 3: a request that was given up must not arrive later. If the kernel sends it again and again in vain, because the
    link is cut, the connection closes and the kernel drops the request.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Final, TypeAlias

from serve_bridge.config.tls import Tls
from serve_bridge.errors import AuthenticationError, ProtocolError
from serve_bridge.wire.body import BodyStream
from serve_bridge.wire.endings import Aborted, Lost, Rejected
from serve_bridge.wire.frames import END, Frame, Kind, encode
from serve_bridge.wire.heads import Rejection, decoder
from serve_bridge.wire.keys import Key, Role
from serve_bridge.wire.peer import acknowledges_nothing, resends_in_vain
from serve_bridge.wire.segments import Segment
from serve_bridge.wire.sessions import CallerSession
from serve_bridge.wire.stream_states import State
from serve_bridge.wire.streams import ANSWER_WINDOW
from serve_bridge.wire.tls import handshake_of_caller
from serve_bridge.wire.transport import FrameTransport

_GONE, _WAITING, _STREAMING = int(State.GONE), int(State.WAITING), int(State.STREAMING)
_DATA, _RESPONSE, _REJECT = int(Kind.DATA), int(Kind.RESPONSE), int(Kind.REJECT)
_CREDIT, _GOAWAY = int(Kind.CREDIT), int(Kind.GOAWAY)

LAST_WORDS_BYTES: Final = 64 * 1024
"""Size of one read of a peer's last words, in bytes."""

_decode_rejection: Final = decoder(Rejection)

Upload: TypeAlias = Sequence[Segment] | AsyncIterator[bytes | list[Segment]]
"""The body of a request: all of its segments, or an iterator over its messages, each with one or several segments."""


class CallerStream(BodyStream):
    """One request at the caller's end.

    Attributes:
        reply: The future RESPONSE frame. It fails with `Rejected`, `Lost` or `Aborted`.
        uploading: Whether the end of the request's body was not sent yet.
        opened: The connection's `writes` when the stream was opened. If `writes` is still the same, no byte of the
            request was written.
        on_done: Called once with the replica's load, when the last frame has arrived or can never arrive.
    """

    __slots__ = ("_upload", "on_done", "opened", "reply", "uploading")

    connection: CallerConnection

    def __init__(self, id: int, connection: CallerConnection, reply: asyncio.Future[Frame], *, uploading: bool) -> None:
        super().__init__(id, _WAITING, send_window=0, recv_window=ANSWER_WINDOW)
        self.connection = connection
        self.reply: asyncio.Future[Frame] = reply
        self.uploading: bool = uploading
        self.opened: int = connection.writes
        self.on_done: Callable[[int], None] | None = None
        self._upload: asyncio.Task[None] | None = None

    def may_send(self) -> bool:
        """Return whether the replica still takes body bytes."""
        return self.state == _WAITING or self.state == _STREAMING

    def may_receive(self) -> bool:
        """Return whether more of the answer may arrive."""
        return self.state == _STREAMING

    def start_upload(self, body: Upload) -> None:
        """Send the request's body in a task. The task reads from *body* only after the replica accepts the request."""
        self._upload = asyncio.get_running_loop().create_task(self._send_body(body))

    def cancel(self, error: BaseException | None = None) -> None:
        """Give up the answer, and fail the waiting tasks with *error*. The replica stops its work if it can.

        Unread pieces of an incomplete answer are dropped.
        """
        if self.state == _GONE:
            return
        self.drop()
        if self.may_send():
            self.connection.give_up(self)
        self.fail(error)

    def fail(self, error: BaseException | None) -> None:
        """Fail the tasks that wait for the reply or its body. Without *error*, the reply is cancelled."""
        if not self.reply.done():
            if error is None:
                self.reply.cancel()
            else:
                self.reply.set_exception(error)
                self.reply.exception()  # otherwise asyncio logs it if the waiting task has ended
        self.end_body(error or Aborted())
        self._stop_upload()

    def answered(self, frame: Frame) -> None:
        """Handle the head of the answer."""
        if frame.flags & END:
            self.end_body()
        if not self.reply.done():
            self.reply.set_result(frame)

    def finish(self, load: int) -> None:
        """Release the slot, because the last frame has arrived or can never arrive."""
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

    async def _send_body(self, body: Upload) -> None:
        try:
            await self.accepted()
            if isinstance(body, AsyncIterator):
                async for chunk in body:
                    await self.send_segments(chunk if isinstance(chunk, list) else [chunk], end=False)
                    del chunk  # frees a long chunk during the wait for the next one
                body = []
            await self.send_segments(body, end=True)
        except Exception as error:
            # If the stream has ended, the reply has its error already. Otherwise the source of the body has failed.
            if self.may_send():
                self.cancel(error)


class CallerConnection(FrameTransport):
    """The caller's end of a connection, which opens streams.

    Attributes:
        session: The open streams.
        ready: Done after the handshake. It fails with `Lost` or `AuthenticationError`.
        going_away: Whether the listener has sent GOAWAY. Then the connection closes after its last stream.
        gave_up_at: Loop time at which a request was given up, if the replica's host has acknowledged nothing since.
            Otherwise None, as for a unix socket.
        on_change: Called when the connection closes, and when GOAWAY arrives.
    """

    def __init__(self, key: Key, role: Role, identity: bytes, tls: Tls | None = None) -> None:
        """Connect in *role*; *tls*: the files for TLS, if the connection uses it.

        Raises:
            TlsRefused: The files cannot be used.
        """
        self.session: CallerSession[CallerStream] = CallerSession()
        super().__init__(handshake_of_caller(key, role, identity, tls), self.session.reader)
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.going_away: bool = False
        self.gave_up_at: float | None = None
        self.on_change: Callable[[], None] | None = None

    @property
    def usable(self) -> bool:
        """Whether `open` can send a request."""
        return not (self.closed or self.going_away)

    def open(self, kind: Kind, head: bytes, *, end: bool) -> CallerStream:
        """Send the head of a request. With *end*, the head is the whole request.

        Raises:
            Lost: The connection closes and takes no new streams. Nothing was sent.
            SerializationError: *head* is too large for a frame. Nothing was sent.
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
        if self._seal_out is not None:
            if self.gave_up_at is None:
                self.gave_up_at = self._loop.time()
            self._loop.call_soon(self.check_link)  # later, because `stream` must end with its own error

    def check_link(self) -> None:
        """Close the connection if a request was given up and may still be on a cut link."""
        if self.closed or self.gave_up_at is None:
            return
        sock = self._transport.get_extra_info("socket")
        if resends_in_vain(sock):
            self.cut_off(TimeoutError("its host acknowledges nothing, and a request was given up"))
        elif not acknowledges_nothing(sock, self._loop.time() - self.gave_up_at):
            self.gave_up_at = None

    def ping(self) -> None:
        """Send a PING. The answer of a live peer updates `last_heard`."""
        self.send(encode(Kind.PING, 0))

    def frames_received(self, frames: Iterable[Frame]) -> None:
        """Give each frame to its stream."""
        for stream, frame in self.session.accept(frames):
            kind = frame.kind
            if stream is None:
                if kind == _GOAWAY:
                    self._refused_above(frame.stream)
                continue  # `data_received` has updated last_heard for a PONG
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

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the requests in flight. If a write has failed, the peer's last words are still in the socket."""
        if isinstance(exc, ConnectionError):
            self._read_last_words()
        super().connection_lost(exc)

    def _read_last_words(self) -> None:
        """Handle what the peer has sent before it closed: answers, and a GOAWAY."""
        with contextlib.suppress(OSError):
            while not self.closed and self.can_receive() and (data := os.read(self.fileno(), LAST_WORDS_BYTES)):
                self.data_received(data)

    def is_quiet(self) -> bool:
        """Return whether the connection has at most one request."""
        return len(self.session.streams) < 2

    def authenticated(self, role: Role) -> None:
        """Let the dialling task continue."""
        if not self.ready.done():
            self.ready.set_result(None)

    def closing(self, error: BaseException | None) -> None:
        """Fail the requests in flight."""
        if not self.ready.done():
            refused = error if isinstance(error, AuthenticationError) else None
            self.ready.set_exception(refused or Lost("no", str(error or "the connection was refused")))
            self.ready.exception()  # otherwise asyncio logs it if the dialling task has ended
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
        """Handle a GOAWAY: the replica did not and will not accept streams above *last*."""
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


def rejected(frame: Frame) -> Rejected | Lost:
    """Return the exception for a REJECT frame."""
    try:
        return Rejected(_decode_rejection(frame.payload))
    except ProtocolError as error:
        return Lost("unknown", str(error))
