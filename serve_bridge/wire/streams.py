"""One stream: its state and the two windows of its credit.

Rule 1: a request body flows only on credit, and the first credit says that the request was accepted. So a rejected
    request has lost nothing of its body.
"""

from __future__ import annotations

import struct
from typing import Final

from serve_bridge.errors import ProtocolError

ANSWER_WINDOW: Final = 1 << 20
"""What a replica may send of an answer's body ahead of the caller's credit."""
FRAME_COST: Final = 256
"""What each DATA frame takes of a window beside its bytes: windows bound the number of small ones too."""
MAX_WINDOW: Final = 1 << 30
CREDIT: Final = struct.Struct("<I")


class Stream:
    """One stream's state and its two windows.

    Attributes:
        id: Its number on the connection, from 1 upwards.
        state: See `State`.
        send_window: What may be sent of a body before more credit comes.
        recv_window: What the peer may still send.
        space: What is still to be filled of the place where the peer's body is wanted; None: nowhere yet.
    """

    __slots__ = ("id", "recv_window", "send_window", "space", "state")

    def __init__(self, id: int, state: int, *, send_window: int, recv_window: int) -> None:
        self.id = id
        self.state = state
        self.send_window = send_window
        self.recv_window = recv_window
        self.space: memoryview | None = None

    def spend_recv_window(self, size: int) -> None:
        """Count a received DATA frame of *size* bytes.

        Raises:
            ProtocolError: The peer sent more than it had credit for.
        """
        self.recv_window -= size + FRAME_COST
        if self.recv_window < 0:
            raise ProtocolError(f"stream {self.id} overran its credit by {-self.recv_window}")

    def place(self, size: int) -> memoryview | None:
        """Return where the payload of the next DATA frame, of *size* bytes, belongs, if there is such a place."""
        space = self.space
        if space is None or size > len(space):
            return None
        self.space = space[size:]
        return space[:size]

    def fill(self, payload: bytes) -> None:
        """Write the *payload* of a DATA frame to its place, which there is.

        Raises:
            ProtocolError: It does not fit.
        """
        assert self.space is not None
        if len(payload) > len(self.space):
            raise ProtocolError(f"the body of stream {self.id} is longer than was announced")
        self.space[: len(payload)] = payload
        self.space = self.space[len(payload) :]

    def take_credit(self, payload: bytes) -> None:
        """Add what a CREDIT frame gives.

        Raises:
            ProtocolError: It is no number, or too large a one.
        """
        if len(payload) != CREDIT.size:
            raise ProtocolError(f"credit of {len(payload)} bytes")
        self.send_window += CREDIT.unpack(payload)[0]
        if self.send_window > MAX_WINDOW:
            raise ProtocolError(f"credit above {MAX_WINDOW}")
