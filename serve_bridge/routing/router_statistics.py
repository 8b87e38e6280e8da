"""The counters of a router."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class RouterStatistics:
    """What a router has done since it was made.

    Attributes:
        routed: Requests that got a backend; shadows do not count.
        retried: Requests that were sent a second time although they may have run.
        rejected: Rejections by replicas.
        shadows_sent: Shadow requests that were answered.
        shadows_dropped: Shadow requests that were not sent, or failed.
    """

    routed: int = 0
    retried: int = 0
    rejected: int = 0
    shadows_sent: int = 0
    shadows_dropped: int = 0
