"""How an exchange on the data plane can end early: rejected, lost or aborted."""

from __future__ import annotations

from serve_bridge.wire.heads import Rejection


class Rejected(Exception):
    """The replica refused the request before anything ran."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection)
        self.rejection = rejection


class Lost(Exception):
    """The connection ended first. *started* is "no" where that is proved, else "unknown"."""

    def __init__(self, started: str, why: str) -> None:
        super().__init__(started, why)
        self.started = started
        self.why = why

    def __str__(self) -> str:
        return self.why


class Aborted(Exception):
    """The answer ended before it was whole: the replica broke it off, or the caller gave it up."""
