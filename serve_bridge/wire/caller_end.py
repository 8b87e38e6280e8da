"""The caller's end of a data-plane connection on an asyncio loop, and of the requests on it.

Rule 1: a stream's slot is given back exactly once, by `on_done`: when the replica has spoken its last, or
    never will.
Rule 2: a request that ends with the connection is "unknown", unless GOAWAY has denied it or no byte of it was
    written.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Final, TypeAlias

from serve_bridge.errors import AuthenticationError, ProtocolError
from serve_bridge.wire.body import BodyStream
from serve_bridge.wire.endings import Aborted, Lost, Rejected
from serve_bridge.wire.frames import END, Frame, Kind, encode
from serve_bridge.wire.handshake import Handshake
from serve_bridge.wire.heads import Rejection, decoder
from serve_bridge.wire.keys import Key, Role
from serve_bridge.wire.payload import Segment
from serve_bridge.wire.sessions import CallerSession
from serve_bridge.wire.stream_states import State
from serve_bridge.wire.streams import ANSWER_WINDOW
from serve_bridge.wire.transport import FrameTransport

_GONE, _WAITING, _STREAMING = int(State.GONE), int(State.WAITING), int(State.STREAMING)
_DATA, _RESPONSE, _REJECT = int(Kind.DATA), int(Kind.RESPONSE), int(Kind.REJECT)
_CREDIT, _GOAWAY = int(Kind.CREDIT), int(Kind.GOAWAY)

_decode_rejection: Final = decoder(Rejection)

Upload: TypeAlias = Sequence[Segment] | AsyncIterator[bytes | list[Segment]]
"""The body of a request: all of it, or its messages, each as one or as several segments."""


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

    def start_upload(self, body: Upload) -> None:
        """Send the request's body in a task; nothing is taken from *body* before the request is accepted."""
        self._upload = asyncio.get_running_loop().create_task(self._send_body(body))

    def cancel(self, error: BaseException | None = None) -> None:
        """Give the answer up: the replica stops the work where it can, *error* reaches who still waits.

        Pieces of the answer that were not read yet are dropped, unless the answer is whole.
        """
        if self.state == _GONE:
            return
        self.drop()
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

    async def _send_body(self, body: Upload) -> None:
        try:
            await self.accepted()
            if isinstance(body, AsyncIterator):
                async for chunk in body:
                    await self.send_segments(chunk if isinstance(chunk, list) else [chunk], end=False)
                    del chunk  # a long one must not stay while the next is waited for
                body = []
            await self.send_segments(body, end=True)
        except Exception as error:
            # Either the exchange has ended, and the reply says how; or the source of the body broke.
            if self.may_send():
                self.cancel(error)


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

    def frames_received(self, frames: Iterable[Frame]) -> None:
        """Hand each frame to its stream."""
        for stream, frame in self.session.accept(frames):
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


def rejected(frame: Frame) -> Rejected | Lost:
    """Return what a REJECT frame says, to be raised."""
    try:
        return Rejected(_decode_rejection(frame.payload))
    except ProtocolError as error:
        return Lost("unknown", str(error))
