"""The ways in which a request on the data plane can end early: rejected, lost or aborted."""

from __future__ import annotations

from serve_bridge.wire.heads import Rejection


class Rejected(Exception):
    """The replica refused the request before any user code ran."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection)
        self.rejection = rejection


class Lost(Exception):
    """The connection ended before the answer.

    Attributes:
        started: "no" if the request provably did not start; otherwise "unknown".
        why: The reason, for an error text.
    """

    def __init__(self, started: str, why: str) -> None:
        super().__init__(started, why)
        self.started = started
        self.why = why

    def __str__(self) -> str:
        return self.why


class Aborted(Exception):
    """The answer is incomplete, because the replica aborted it or the caller gave it up."""
