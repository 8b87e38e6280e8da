"""How long a client may be slower than a rate, in either direction.

A client has an amount of time. Each second takes one second of it. Each byte gives back the time that the byte may take
at the rate. A client that has moved many bytes at once may be silent afterwards, but not for longer than its limit.
"""

from __future__ import annotations

from typing import Final

__all__ = ["GRACE_S", "Pace"]

GRACE_S: Final = 5.0
"""Time in seconds that a client has before its first byte; less if its limit is shorter."""


class Pace:
    """The time that one client has left.

    Attributes:
        left_s: Seconds.
    """

    __slots__ = ("_rate", "left_s")

    def __init__(self, rate: int) -> None:
        """Demand *rate* bytes a second; 0: some byte within the limit is enough."""
        self._rate = rate
        self.left_s = GRACE_S

    def spend(self, elapsed: float, moved: int, limit_s: float) -> bool:
        """Count *moved* bytes in *elapsed* seconds; return whether the client is too slow.

        It never has more than *limit_s* seconds.
        """
        gained = moved / self._rate if self._rate else limit_s * (moved > 0)
        self.left_s = min(self.left_s + gained, limit_s) - elapsed
        return self.left_s < 0
