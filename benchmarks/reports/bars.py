"""The performance bars of serve_bridge. Most compare it with a peer in the same round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from benchmarks.contenders.entries import ENTRIES, OURS
from benchmarks.results import Place, Run, Spread


@dataclass(frozen=True, slots=True)
class Bar:
    """A limit for one figure of serve_bridge: a multiple of a peer's figure, a difference to it, or a plain number.

    Attributes:
        figure: An attribute of `Sample`, or the figure of a `Reading`.
        point: Key of the load.
        peer: Key of the contender in the comparison. None: *factor* is the limit itself.
        limit: Whether *factor* is a lower or an upper limit.
        factor: Multiple of the peer's figure. With *difference*, the amount above the peer's figure.
        contender: Key of the judged contender, which runs serve_bridge.
        difference: Whether to compare by the difference.
        peer_point: Key of the peer's load. None: the same load.
    """

    figure: str
    point: str
    peer: str | None
    limit: Literal["at least", "at most"]
    factor: float
    contender: str = OURS
    difference: bool = False
    peer_point: str | None = None

    @property
    def place(self) -> Place:
        """Contender and point of the judged figure."""
        return self.contender, self.point

    @property
    def other(self) -> Place | None:
        """Contender and point of the peer's figure, or None without a peer."""
        return None if self.peer is None else (self.peer, self.peer_point or self.point)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bar and the measured figure. *cleared* is None if the run has no such figure.

    The median over the rounds decides. For a limit of 0, the worst round decides.
    """

    bar: Bar
    found: Spread | None
    cleared: bool | None


BARS: Final[tuple[Bar, ...]] = (
    Bar("requests_per_s", "http-64", "ray-serve", "at least", 35),
    Bar("requests_per_s", "http-64", "ray-serve-haproxy", "at least", 4.5),
    Bar("requests_per_s", "post-64", "mosec", "at least", 1.5),
    Bar("requests_per_s", "http-64", "bare", "at least", 0.8),
    Bar("cpu_s_per_1000", "http-64", "ray-serve-haproxy", "at most", 0.35),
    Bar("cpu_s_per_1000", "http-64", "bare", "at most", 2.2),
    Bar("p50_ms", "http-1", "ray-serve-haproxy", "at most", 0.65),
    Bar("p50_ms", "http-1", "bare", "at most", 0.15, difference=True),
    Bar("requests_per_s", "call-1", "ray-serve", "at least", 14),
    Bar("requests_per_s", "call-1", "ray-actor-async", "at least", 4.5),
    Bar("requests_per_s", "call-1", "celery", "at least", 14),
    Bar("requests_per_s", "acall-64", None, "at least", 10_000),
    Bar("requests_per_s", "acall-64", "ray-actor-async", "at least", 5, peer_point="remote-100"),
    Bar("requests_per_s", "remote-1", "ray-actor-async", "at least", 0.8),
    Bar("requests_per_s", "echo-1m", "ray-serve-haproxy", "at least", 1.3),
    Bar("requests_per_s", "echo-10m", "ray-serve-haproxy", "at least", 1.5),
    *(
        Bar(f"rss_{role}_mib", "memory", "ray-serve-haproxy", "at most", 0.65)
        for role in ("controller", "proxy", "replica")
    ),
    Bar("growth_mib", "upload", None, "at most", 32),
    Bar("growth_mib", "download", None, "at most", 32),
    Bar("requests_per_s", "events-64", "ray-serve-haproxy", "at least", 4),
    Bar("cpu_s_per_1000", "scale-8-1000", OURS, "at most", 1.1, peer_point="scale-1"),
    Bar("p99_ms", "beside-saturated", OURS, "at most", 1.5, peer_point="beside-idle"),
    Bar("errors", "beside-saturated", None, "at most", 0),
    *(
        Bar("share_of_ideal", f"batch-{kind}-{size}", None, "at least", 0.95)
        for size in (8, 32)
        for kind in ("http", "acall")
    ),
    Bar("start_s", "first-answer", "ray-serve", "at most", 0.5),
    *(
        bar
        for entry in ENTRIES.values()
        if entry.plain not in (None, entry.name)
        for bar in (
            Bar("requests_per_s", "view-16", entry.plain, "at least", 0.7, contender=entry.name),
            Bar("p50_ms", "view-1", entry.plain, "at most", 0.3, contender=entry.name, difference=True),
        )
    ),
)


def judge(run: Run, bar: Bar) -> Verdict:
    """Compare a run with a bar."""
    if bar.other is None:
        found = run.spread(*bar.place, bar.figure)
    else:
        found = (run.difference if bar.difference else run.ratio)(bar.place, bar.other, bar.figure)
    if found is None:
        return Verdict(bar, None, None)
    deciding = found.median if bar.factor else found.high
    cleared = deciding >= bar.factor if bar.limit == "at least" else deciding <= bar.factor
    return Verdict(bar, found, cleared)
