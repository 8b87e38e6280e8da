"""The caller's end of a connection on a blocking socket: one request at a time, in the calling thread.

It uses the same frames and the same `CallerSession` as the asyncio connection. Compared with that one, a synchronous
caller saves two thread switches, about half of its time.

Rule 1: one thread at a time uses a connection. After any error the connection is closed and not used again.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from serve_bridge.errors import AuthenticationError, DeadlineExceeded, ProtocolError
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.blocking_stream import BlockingStream
from serve_bridge.wire.caller_end import rejected
from serve_bridge.wire.dialling import connect
from serve_bridge.wire.endings import Lost, Rejected
from serve_bridge.wire.frames import END, HEADER_BYTES, Kind, encode
from serve_bridge.wire.handshake import HANDSHAKE_TIMEOUT_S, Handshake, identity
from serve_bridge.wire.keys import Key, Role
from serve_bridge.wire.open_connections import drop_after_fork
from serve_bridge.wire.peer import HOST_GONE, HOST_GONE_AFTER_S, acknowledges_nothing, discard_at_close
from serve_bridge.wire.sessions import CallerSession
from serve_bridge.wire.shortage import Shortage, is_shortage
from serve_bridge.wire.stream_states import State
from serve_bridge.wire.streams import ANSWER_WINDOW, CREDIT, Stream
from serve_bridge.wire.tls import TlsHandshake, handshake_of_caller

RECEIVE_BYTES: Final = 256 * 1024
ASK_AFTER_SILENCE_S: Final = 1.0
"""Seconds of silence after which `on_silence` is called, which can check whether the replica still lives."""
_TIMEVAL = struct.Struct("@ll")
_Read = TypeVar("_Read", bytes, int)


class BlockingConnection:
    """A connection to one replica, for one request at a time.

    Attributes:
        closed: Whether the connection is unusable for another request.
    """

    def __init__(self, address: SocketAddress, key: Key, generation: str, role: Role) -> None:
        """Connect to *address*. Both ends prove that they belong to the instance.

        Raises:
            Lost: No process answers; nothing was sent. It is a `Shortage` if this process lacks memory, file
                descriptors or ports.
            AuthenticationError: A process outside the instance answers.
        """
        self.closed: bool = False
        self._session: CallerSession[Stream] = CallerSession()
        self._timeout_s = 0.0
        self._pinged: float | None = None
        try:
            self._socket = connect(address)
            self._recv = partial(self._socket.recv, RECEIVE_BYTES)
        except AuthenticationError:
            raise
        except (OSError, MemoryError) as error:
            if is_shortage(error):
                raise Shortage("no", f"this process cannot open a connection to {address.name}: {error}") from error
            raise Lost("no", f"cannot reach {address.name}: {error}") from error
        drop_after_fork(self)
        self._is_unix = self._socket.family == socket.AF_UNIX
        try:
            tls = None if self._is_unix else key.tls
            self._greet(handshake_of_caller(key, role, identity(generation, address.name), tls))
        except BaseException as error:
            self.close()
            if isinstance(error, OSError) and not isinstance(error, AuthenticationError):
                # The kernel reports the end of the time as an empty socket.
                late = isinstance(error, BlockingIOError)
                why = f"no valid handshake within {HANDSHAKE_TIMEOUT_S} s" if late else error
                raise Lost("no", f"cannot reach {address.name}: {why}") from error
            raise

    def exchange(
        self, kind: Kind, head: bytes, timeout_s: float, on_silence: Callable[[], None] | None = None
    ) -> BlockingStream:
        """Send a request without DATA frames; return its answer as soon as the head of the answer arrives.

        Args:
            kind: REQUEST or CALL.
            head: The head of the request.
            timeout_s: Seconds for the whole answer.
            on_silence: Called each time the replica was silent for `ASK_AFTER_SILENCE_S`.

        Raises:
            Rejected: The replica has started nothing. The connection stays usable.
            Lost: The connection ended first; `started` tells whether the request may have run.
            DeadlineExceeded: No answer came within *timeout_s*. The connection is closed, which cancels the work.
        """
        deadline = time.monotonic() + timeout_s
        stream = Stream(self._session.next_id(), State.WAITING, send_window=0, recv_window=ANSWER_WINDOW)
        self._session.streams[stream.id] = stream
        answer = BlockingStream(self, stream, deadline, on_silence)
        try:
            if not self._is_unix:
                self._check_alive()
            self._send(encode(kind, stream.id, head, END))
            while not answer.begun:
                self.read_into(answer)
                if answer.broken is not None and not answer.begun:
                    raise answer.broken
        except Rejected:
            if self.closed:  # a draining replica sent GOAWAY before
                self.close()
            raise
        except BaseException:
            self.close()
            raise
        return answer

    def read_into(self, answer: BlockingStream) -> None:
        """Wait for the next frames, and give them to *answer*; raises as `exchange` does."""
        data = self._read_body(answer) if answer.space else self._receive(answer, self._recv)
        for stream, frame in self._session.feed(data):
            if stream is None:
                if frame.kind == Kind.GOAWAY:
                    self._deny_above(frame.stream)
            elif frame.kind == Kind.REJECT:
                raise rejected(frame)
            elif frame.kind == Kind.ABORT:
                answer.broken = Lost("unknown", "the replica aborted the answer")
            else:
                answer.take(frame)
        if answer.ended and self.closed:
            self._socket.close()

    def _read_body(self, answer: BlockingStream) -> bytes:
        """Read the next bytes into the buffer of the body. Return the bytes that do not belong there."""
        reader = self._session.reader
        if reader.space is None or not self._is_unix:
            # Read a header alone, because its payload may belong in the buffer.
            size = HEADER_BYTES if self._is_unix else RECEIVE_BYTES
            return self._receive(answer, partial(self._socket.recv, size))
        while not reader.filled(self._receive(answer, partial(self._socket.recv_into, reader.space))):
            pass
        return b""

    def _deny_above(self, last: int) -> None:
        """Handle a GOAWAY. The current answer still arrives if its request was accepted. No other request follows.

        Raises:
            Lost: The replica has not started the request, and will not.
        """
        self.closed = True
        if self._session.refused_above(last):
            raise Lost("no", "the replica is going away")

    def give_credit(self, stream: Stream, size: int) -> None:
        """Let the replica send *size* bytes more."""
        stream.recv_window += size
        self._send(encode(Kind.CREDIT, stream.id, CREDIT.pack(size)))

    def close(self) -> None:
        """Close the socket at once, without sending anything. An unfinished request never arrives later."""
        self.closed = True
        if hasattr(self, "_socket"):
            if self._session.streams:
                with contextlib.suppress(OSError):  # the socket was closed already
                    discard_at_close(self._socket)
            self._socket.close()

    def drop(self) -> None:
        """Close this process's copy of the socket. A forked child calls this, while the parent uses its own copy."""
        self.closed = True
        self._socket.close()

    def _send(self, frame: bytes) -> None:
        if not self._is_unix:
            frame = self._seal_out.close(frame)
        sent = 0
        try:
            sent = self._socket.send(frame)
            if sent < len(frame):
                self._socket.sendall(frame[sent:])
        except OSError as error:
            # A unix socket whose peer has gone refuses the first byte. Over TCP, the bytes may have reached the peer.
            # But its last words may be a GOAWAY, which is still in the buffer of the socket.
            if sent or not self._is_unix:
                self._read_last_words()
                raise Lost("unknown", f"the replica has gone: {error}") from error
            raise Lost("no", f"the replica has gone: {error}") from error

    def _read_last_words(self) -> None:
        """Read what the peer has sent before it closed.

        Raises:
            Lost: It has denied the request.
        """
        with contextlib.suppress(OSError):
            while data := self._socket.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT):
                for stream, frame in self._session.feed(data if self._is_unix else self._seal_in.open(data)):
                    if stream is None and frame.kind == Kind.GOAWAY:
                        self._deny_above(frame.stream)

    def _receive(self, answer: BlockingStream, read: Callable[[], _Read]) -> _Read:
        quiet = False
        while True:
            remaining = answer.deadline - time.monotonic()
            if remaining <= 0:
                raise DeadlineExceeded("the backend did not answer in time", "unknown")
            if quiet and answer.on_silence is not None:
                answer.on_silence()
            if quiet and not self._is_unix:
                self._ask_host()
            remaining = min(remaining, ASK_AFTER_SILENCE_S)
            # Use the kernel's timeout, because Python's costs a poll() before every read. Set it only if it differs.
            if abs(self._timeout_s - remaining) > 0.005 + 0.01 * remaining:
                self._set_timeout(remaining)
            try:
                data = read()
            except BlockingIOError:
                self._timeout_s = 0.0  # so that the next turn sets it: the old timeout may end just before the deadline
                quiet = True
                continue
            except OSError as error:
                raise Lost("unknown", str(error)) from error
            if not data:
                raise Lost("unknown", "the replica closed the connection")
            self._pinged = None
            if self._is_unix or (data := self._seal_in.open(data)):  # type: ignore[arg-type, assignment]
                return data

    def _ask_host(self) -> None:
        """Send a silent TCP peer a ping. The peer's host acknowledges it even if the peer's process hangs.

        Raises:
            Lost: The host has acknowledged nothing for `HOST_GONE_AFTER_S`.
        """
        now = time.monotonic()
        if self._pinged is None:
            self._pinged = now
            self._send(encode(Kind.PING, 0))
        elif now - self._pinged >= HOST_GONE_AFTER_S and acknowledges_nothing(self._socket, now - self._pinged):
            raise Lost("unknown", HOST_GONE)

    def _set_timeout(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        whole = int(timeout_s)
        value = _TIMEVAL.pack(whole, max(1, int((timeout_s - whole) * 1e6)))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)

    def _check_alive(self) -> None:
        """Check that a TCP peer has sent nothing since the last answer. A closed or departing peer has.

        Raises:
            Lost: The replica has closed the connection, or is going away.
        """
        try:
            data = self._socket.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            raise Lost("no", str(error)) from error
        if not data or list(self._session.feed(self._seal_in.open(data))):
            raise Lost("no", "the replica closed the connection or is going away")

    def _greet(self, handshake: Handshake | TlsHandshake) -> None:
        self._set_timeout(HANDSHAKE_TIMEOUT_S)
        self._socket.sendall(handshake.start())
        while not handshake.done:
            data = self._socket.recv(4096)
            if not data:
                raise AuthenticationError("the peer closed the connection during the handshake")
            try:
                answer = handshake.feed(data)
            except AuthenticationError:
                with contextlib.suppress(
                    OSError
                ):  # the listener may have closed already, and this reason is the better
                    self._socket.sendall(handshake.last_words)
                raise
            self._socket.sendall(answer)
        rest = handshake.rest
        if not self._is_unix:
            self._seal_out, self._seal_in = handshake.seals()
            rest = self._seal_in.open(rest)
        for _, frame in self._session.feed(rest):
            if frame.kind != Kind.GOAWAY:
                raise ProtocolError("the listener sent a frame before any request")
            raise Lost("no", "the replica is going away")
