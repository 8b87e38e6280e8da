"""One stream: its state and the two windows of its credit.

Rule 1: a body flows only on credit. The first credit for a request body also says that the request was accepted. So a
    rejected request has lost nothing of its body.
"""

from __future__ import annotations

import struct
from typing import Final

from serve_bridge.errors import ProtocolError

ANSWER_WINDOW: Final = 1 << 20
"""Bytes of an answer's body that a replica may send before the caller gives credit."""
FRAME_COST: Final = 256
"""Bytes of a window that each DATA frame costs beside its payload, so that a window also limits small frames."""
MAX_WINDOW: Final = 1 << 30
"""Upper limit for a window, in bytes."""
CREDIT: Final = struct.Struct("<I")
"""The payload of a CREDIT frame: a number of bytes."""


class Stream:
    """The state of one stream, and its two windows.

    Attributes:
        id: Number of the stream on its connection, from 1 upwards.
        state: The state as an int (see `State`).
        send_window: Bytes of a body for which this end has credit.
        recv_window: Bytes of a body for which the peer has credit.
        space: Unfilled rest of the buffer for the peer's body; None if there is no such buffer.
    """

    __slots__ = ("id", "recv_window", "send_window", "space", "state")

    def __init__(self, id: int, state: int, *, send_window: int, recv_window: int) -> None:
        self.id: int = id
        self.state: int = state
        self.send_window: int = send_window
        self.recv_window: int = recv_window
        self.space: memoryview | None = None

    def spend_recv_window(self, size: int) -> None:
        """Count a received DATA frame of *size* bytes.

        Raises:
            ProtocolError: The peer has sent more than its credit allows.
        """
        self.recv_window -= size + FRAME_COST
        if self.recv_window < 0:
            raise ProtocolError(f"stream {self.id} overran its credit by {-self.recv_window}")

    def place(self, size: int) -> memoryview | None:
        """Return the part of the buffer for the *size* bytes of the next DATA frame; None if it does not fit there."""
        space = self.space
        if space is None or size > len(space):
            return None
        self.space = space[size:]
        return space[:size]

    def fill(self, payload: bytes) -> None:
        """Copy the *payload* of a DATA frame into the buffer, which must exist.

        Raises:
            ProtocolError: The payload does not fit.
        """
        assert self.space is not None
        if len(payload) > len(self.space):
            raise ProtocolError(f"the body of stream {self.id} is longer than was announced")
        self.space[: len(payload)] = payload
        self.space = self.space[len(payload) :]

    def take_credit(self, payload: bytes) -> None:
        """Add the credit in the *payload* of a CREDIT frame to the window.

        Raises:
            ProtocolError: The payload is not a number, or the window gets too large.
        """
        if len(payload) != CREDIT.size:
            raise ProtocolError(f"credit of {len(payload)} bytes")
        self.send_window += CREDIT.unpack(payload)[0]
        if self.send_window > MAX_WINDOW:
            raise ProtocolError(f"credit above {MAX_WINDOW}")
