"""The minimum rate at which a client must send or receive.

A client has an amount of time. Each second uses up one second of it. Each byte adds the time of one byte at the minimum
rate. So a client may pause after many bytes at once, but not for longer than its limit.
"""

from __future__ import annotations

from typing import Final

__all__ = ["GRACE_S", "Pace"]

GRACE_S: Final = 5.0
"""Time of a client for its first byte in seconds, unless its limit is shorter."""


class Pace:
    """The remaining time of one client.

    Attributes:
        left_s: The time in seconds.
    """

    __slots__ = ("_rate", "left_s")

    def __init__(self, rate: int) -> None:
        """Demand *rate* bytes per second; 0: one byte within the limit is enough."""
        self._rate = rate
        self.left_s: float = GRACE_S

    def spend(self, elapsed: float, moved: int, limit_s: float) -> bool:
        """Count *moved* bytes in *elapsed* seconds. Return whether the client is too slow.

        Args:
            elapsed: Seconds since the last call.
            moved: Bytes sent or received by the client since then.
            limit_s: Upper limit for the remaining time in seconds.
        """
        gained = moved / self._rate if self._rate else limit_s * (moved > 0)
        self.left_s = min(self.left_s + gained, limit_s) - elapsed
        return self.left_s < 0
