"""The deadlines of one connection.

They are numbers, not timers. The server sweeps over all connections and compares.
"""

from __future__ import annotations

import math

from serve_bridge.http_server.pace import Pace

__all__ = ["ConnectionDeadlines"]


class ConnectionDeadlines:
    """The next deadline of one connection, and the pace of the body that it receives.

    Attributes:
        next_s: The loop's time at which the connection expires; infinite: it does not.
    """

    __slots__ = ("_allowed_s", "_body_pace", "_body_received", "next_s")

    _body_pace: Pace

    def __init__(self) -> None:
        self.next_s: float = math.inf
        self._allowed_s = 0.0
        self._body_received = 0

    def allow(self, now: float, seconds: float) -> None:
        """Let the connection expire in *seconds*."""
        self.next_s = now + seconds
        self._allowed_s = seconds

    def shorten(self, now: float, seconds: float) -> None:
        """Let the connection expire in *seconds* at the latest."""
        self.next_s = min(self.next_s, now + seconds)

    def passed(self, now: float, impatience: float) -> bool:
        """Return whether the connection has expired; *impatience*: part of its time taken away by a full server."""
        return now >= self.next_s - self._allowed_s * impatience

    def expect_body(self, least_rate: int) -> None:
        """Measure the pace of a body from now on. It must have *least_rate* bytes per second."""
        self._body_received = 0
        self._body_pace = Pace(least_rate)

    def body_is_too_slow(self, elapsed: float, received: int, limit_s: float) -> bool:
        """Return whether the body has been too slow.

        Args:
            elapsed: Seconds since the last call.
            received: Number of all received bytes of the body.
            limit_s: Longest time in seconds without a byte.
        """
        moved, self._body_received = received - self._body_received, received
        return self._body_pace.spend(elapsed, moved, limit_s)
