"""The stream of a request on a blocking connection. The calling thread reads the answer's body as it needs it."""

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

    def read_into(self, answer: BlockingStream) -> None:
        """Wait for the next frames, and give them to *answer*."""

    def give_credit(self, stream: Stream, size: int) -> None:
        """Let the replica send *size* bytes more."""

    def close(self) -> None:
        """Close at once."""


class BlockingStream:
    """The stream of one request, with its answer. The body is read from the connection as the caller asks for it.

    Attributes:
        begun: Whether the head has arrived.
        broken: The reason if the answer ended early; otherwise None.
        ended: Whether all of the answer has arrived.
        head: The head as bytes.
        load: The load that the replica reported with the last frame.
        deadline: End of the answer's time, by `time.monotonic`.
        on_silence: See `BlockingConnection.exchange`.
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
        self.begun: bool = False
        self.ended: bool = False
        self.broken: Lost | None = None
        self.head: bytes = b""
        self.load: int = 0
        self._stream = stream
        self.deadline: float = deadline
        self.on_silence: Callable[[], None] | None = on_silence
        self._connection = connection
        self._parts: deque[bytes] = deque()
        self._taken = 0

    def take(self, frame: Frame) -> None:
        """Add a frame to this answer."""
        if not self.begun:
            self.begun = True
            self.head = frame.payload
        elif self._stream.space is not None:
            self._stream.fill(frame.payload)
            self._taken += len(frame.payload) + frame.placed + FRAME_COST
        elif frame.payload:  # the last frame often has no payload
            self._parts.append(frame.payload)
        if frame.flags & END:
            self.ended = True
            self.load = frame.load

    def next_part(self) -> bytes | None:
        """Return the next part of the body, as it arrived; None after the last.

        Raises:
            Lost, DeadlineExceeded: The answer ended early. All parts that arrived were returned before; the connection
                is closed.
        """
        while not self._parts and not self.ended:
            self._more()
        if not self._parts:
            return None
        part = self._parts.popleft()
        self._taken += len(part) + FRAME_COST
        return part

    def read(self, size: int) -> memoryview:
        """Return the whole body, which has *size* bytes by its head. It is read into one buffer without a copy.

        Raises:
            ProtocolError: The body has another size.
            MemoryError: This process lacks memory for the body.
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
        """Wait until the whole body of *size* bytes has arrived. `next_part` then returns it without waiting.

        Raises:
            Lost, DeadlineExceeded: As `next_part`.
        """
        if not self.ended:
            self._connection.give_credit(self._stream, size)
        while not self.ended:
            self._more()

    @property
    def space(self) -> memoryview | None:
        """Return the unfilled rest of the buffer that `read` fills; None if `read` does not run."""
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
