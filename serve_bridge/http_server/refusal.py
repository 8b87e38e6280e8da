"""The reason why a request is not served."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Refusal"]


class Refusal(Exception):
    """The request is not served, and the connection closes after the answer.

    Attributes:
        status: HTTP status of the answer.
        reason: One clause for the client.
        headers: Header fields of this status, such as Allow.
    """

    def __init__(self, status: int, reason: str, *, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        super().__init__(status, reason)
        self.status: int = status
        self.reason: str = reason
        self.headers: Sequence[tuple[bytes, bytes]] = headers
