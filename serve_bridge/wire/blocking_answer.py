"""The answer to a request on a blocking connection. The calling thread reads the body as it needs it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from serve_bridge.errors import ProtocolError
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.frames import END, Frame
from serve_bridge.wire.space import space_for
from serve_bridge.wire.streams import ANSWER_WINDOW, FRAME_COST, Stream


class Connection(Protocol):
    """The blocking connection that an answer arrives on."""

    def read_into(self, answer: BlockingAnswer) -> None:
        """Wait for the next frames, and give *answer* what is in them."""

    def give_credit(self, stream: Stream, size: int) -> None:
        """Let the replica send *size* bytes more."""

    def close(self) -> None:
        """Close at once."""


class BlockingAnswer:
    """An answer of which at least the head is here; its body comes as it is asked for.

    Attributes:
        begun: Whether the head has come.
        broken: Why no more will come than has, if it broke off.
        ended: Whether all of it has come.
        head: The head.
        load: What the replica reported with the last frame.
        deadline, on_silence: As `BlockingConnection.exchange` got them.
    """

    __slots__ = (
        "_connection",
        "_parts",
        "_stream",
        "_taken",
        "begun",
        "broken",
        "deadline",
        "ended",
        "head",
        "load",
        "on_silence",
    )

    def __init__(
        self, connection: Connection, stream: Stream, deadline: float, on_silence: Callable[[], None] | None
    ) -> None:
        self.begun = self.ended = False
        self.broken: Lost | None = None
        self.head = b""
        self.load = 0
        self._stream = stream
        self.deadline = deadline
        self.on_silence = on_silence
        self._connection = connection
        self._parts: deque[bytes] = deque()
        self._taken = 0

    def take(self, frame: Frame) -> None:
        """Take in a frame of this answer."""
        if not self.begun:
            self.begun = True
            self.head = frame.payload
        elif self._stream.space is not None:
            self._stream.fill(frame.payload)
            self._taken += len(frame.payload) + frame.placed + FRAME_COST
        elif frame.payload:  # the last one often has none
            self._parts.append(frame.payload)
        if frame.flags & END:
            self.ended = True
            self.load = frame.load

    def next_part(self) -> bytes | None:
        """Return the next part of the body, of whatever size; None after the last.

        Raises:
            Lost, DeadlineExceeded: It broke off, after all that had come; the connection is closed.
        """
        while not self._parts and not self.ended:
            self._more()
        if not self._parts:
            return None
        part = self._parts.popleft()
        self._taken += len(part) + FRAME_COST
        return part

    def read(self, size: int) -> memoryview:
        """Return the whole body, which the head said has *size* bytes; it is written to its place as it comes.

        Raises:
            ProtocolError: It has another size.
            MemoryError: There is no room for it.
            Lost, DeadlineExceeded: As `next_part`.
        """
        body = self._stream.space = space_for(size)
        for part in self._parts:
            self._stream.fill(part)
            self._taken += len(part) + FRAME_COST
        self._parts.clear()
        while not self.ended:
            self._more()
        if self._stream.space:
            raise ProtocolError(f"body of {size - len(self._stream.space)} bytes where {size} were announced")
        return body

    def receive(self, size: int) -> None:
        """Wait until all of the body is here, which has *size* bytes; `next_part` returns it then.

        Raises:
            Lost, DeadlineExceeded: As `next_part`.
        """
        if not self.ended:
            self._connection.give_credit(self._stream, size)
        while not self.ended:
            self._more()

    @property
    def space(self) -> memoryview | None:
        """Return what is still to be filled of the body that is being read."""
        return self._stream.space

    def _more(self) -> None:
        try:
            if self.broken is not None:
                raise self.broken
            if self._taken >= ANSWER_WINDOW // 4:
                self._connection.give_credit(self._stream, self._taken)
                self._taken = 0
            self._connection.read_into(self)
        except BaseException:
            self._connection.close()
            raise
