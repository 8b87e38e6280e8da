"""How many requests a router may send again although they may have run."""

from __future__ import annotations

from typing import Final

from serve_bridge.routing.router_statistics import RouterStatistics

RETRY_SHARE: Final = 0.1
"""Number of retries by which each routed request raises the budget."""
RETRY_RESERVE: Final = 3.0
"""Number of retries in the budget at the start."""
RETRY_CAP: Final = 100.0
"""Upper limit for the number of retries in the budget."""


class RetryBudget:
    """Limits retries to a share of the routed requests, because retries of all requests would double the load."""

    __slots__ = ("_left", "_routed", "_statistics")

    def __init__(self, statistics: RouterStatistics) -> None:
        self._statistics = statistics
        self._routed = 0
        self._left = RETRY_RESERVE

    def spend(self) -> bool:
        """Take one retry out of the budget, if one is left; return whether it was.

        It may be called from any thread. If two threads spend at the same instant, they may pay once for both.
        """
        routed, self._routed = self._routed, self._statistics.routed
        self._left = min(RETRY_CAP, self._left + RETRY_SHARE * (self._routed - routed))
        if self._left < 1:
            return False
        self._left -= 1
        return True
