"""A first look at each row, in less than five minutes on two cores: one round, one second a point, no repeated load.

Rule 1: serve_bridge is measured at each of these points. A peer is measured where a bar compares it with serve_bridge.
    At a point without such a bar, all contenders are measured.
"""

from __future__ import annotations

from typing import Final

from benchmarks.contenders.entries import ENTRIES, OURS
from benchmarks.reports.bars import BARS
from benchmarks.results import Place

SECONDS: Final = 1.0
WARM_SECONDS: Final = 0.5
POINTS: Final = frozenset((
    "http-1", "http-64", "post-64", "echo-1m", "memory", "call-1", "acall-64", "remote-1", "view-16",
    "scale-1", "scale-8-1000", "uneven-10", "beside-idle", "beside-saturated", "batch-http-8", "work-1",
    "first-answer", "events-64", "tcp-acall-64", "tls-acall-64",
))  # fmt: skip
CONTENDERS: Final = frozenset((
    OURS, "bare", "ray-serve", "ray-serve-haproxy", "ray-actor-async", "mosec", "celery", "direct", "round-robin",
    "soonest-answer", "flask", "flask-bridge",
))  # fmt: skip


def looks_at(place: Place) -> bool:
    """Return whether a first look measures this contender at this point."""
    contender, point = place
    if contender not in CONTENDERS or point not in POINTS:
        return False
    if contender == OURS or ENTRIES[contender].plain:
        return True
    compared = {bar.other for bar in BARS if bar.point == point and bar.other}
    return not compared or place in compared
