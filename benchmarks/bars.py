"""The bars serve_bridge has to clear, each compares it with a peer in the same round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from benchmarks.contenders import ENTRIES, OURS
from benchmarks.results import Run, Spread


@dataclass(frozen=True, slots=True)
class Bar:
    """One promise: our figure is at least, or at most, *factor* times the peer's; or *more* above it.

    Attributes:
        figure: What is compared.
        point: Under which load.
        peer: Key of whom it is compared with.
        limit: Which way.
        factor: Times the peer's figure; with *difference*, what is added to it.
        ours: Key of our contender.
        difference: Compare by the difference.
    """

    figure: Literal["requests_per_s", "p50_ms"]
    point: str
    peer: str
    limit: Literal["at least", "at most"]
    factor: float
    ours: str = OURS
    difference: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run says of a bar; *cleared* is None if it was not measured. The median ratio decides."""

    bar: Bar
    ratio: Spread | None
    cleared: bool | None


BARS: Final[tuple[Bar, ...]] = (
    Bar("requests_per_s", "http-64", "ray-serve", "at least", 25),
    Bar("requests_per_s", "http-64", "ray-serve-haproxy", "at least", 3),
    Bar("requests_per_s", "http-64", "bare", "at least", 0.6),
    Bar("p50_ms", "http-1", "ray-serve-haproxy", "at most", 0.8),
    Bar("requests_per_s", "call-1", "ray-serve", "at least", 10),
    Bar("requests_per_s", "call-1", "ray-actor-async", "at least", 3),
    Bar("requests_per_s", "remote-1", "ray-actor-async", "at least", 0.8),
    *(
        bar
        for entry in ENTRIES.values()
        if entry.plain not in (None, entry.name)
        for bar in (
            Bar("requests_per_s", "view-16", str(entry.plain), "at least", 0.7, ours=entry.name),
            Bar("p50_ms", "view-1", str(entry.plain), "at most", 0.3, ours=entry.name, difference=True),
        )
    ),
)


def judge(run: Run, bar: Bar) -> Verdict:
    """Compare a run with a bar."""
    compare = run.difference if bar.difference else run.ratio
    ratio = compare(bar.ours, bar.peer, bar.point, lambda sample: float(getattr(sample, bar.figure)))
    if ratio is None:
        return Verdict(bar, None, None)
    over = ratio.median >= bar.factor
    return Verdict(bar, ratio, over if bar.limit == "at least" else ratio.median <= bar.factor)
