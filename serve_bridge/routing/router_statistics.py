"""The counters of a router."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class RouterStatistics:
    """Counts what a router does.

    Attributes:
        routed: Requests that got a backend, without shadows.
        retried: Requests sent a second time although they may have run.
        rejected: Rejections by replicas.
        shadows_sent: Answered shadow requests.
        shadows_dropped: Shadow requests that were not sent, or failed.
    """

    routed: int = 0
    retried: int = 0
    rejected: int = 0
    shadows_sent: int = 0
    shadows_dropped: int = 0
