"""How many requests a router may send again although they may have run."""

from __future__ import annotations

from typing import Final

from serve_bridge.routing.router_statistics import RouterStatistics

RETRY_SHARE: Final = 0.1
"""Retries that each routed request pays into the budget."""
RETRY_RESERVE: Final = 3.0
"""Retries in the budget at the start."""
RETRY_CAP: Final = 100.0
"""Upper limit for the retries in the budget."""


class RetryBudget:
    """A bounded share of the routed requests, so that retries cannot multiply the load of an outage."""

    __slots__ = ("_left", "_routed", "_statistics")

    def __init__(self, statistics: RouterStatistics) -> None:
        self._statistics = statistics
        self._routed = 0
        self._left = RETRY_RESERVE

    def spend(self) -> bool:
        """Take one retry out of the budget, if one is left; return whether it was.

        It may be called from any thread. Two threads that spend at the same instant may pay once for both.
        """
        routed, self._routed = self._routed, self._statistics.routed
        self._left = min(RETRY_CAP, self._left + RETRY_SHARE * (self._routed - routed))
        if self._left < 1:
            return False
        self._left -= 1
        return True
