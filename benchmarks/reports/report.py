"""A run as the Markdown of `docs/benchmarks.md`. This module is pure: it turns a run into text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from benchmarks.contenders.entries import ENTRIES, OURS
from benchmarks.reports.bars import BARS, Bar, Verdict, judge
from benchmarks.results import QUIET_CORES, Run, Spread
from benchmarks.rows import footprint
from benchmarks.rows.points import POINTS, ROWS, Point, Row

RATE: Final = "requests_per_s"
FIGURES: Final[Mapping[str, str]] = {
    RATE: "requests/s",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "cpu_s_per_1000": "CPU s / 1,000",
    "errors": "failures",
    "lag_ms": "the client's own delay in p99, ms",
    "rss_controller_mib": "controller MiB",
    "rss_proxy_mib": "proxy MiB",
    "rss_replica_mib": "replica MiB",
    "mib_per_s": "MiB/s",
    "growth_mib": "largest growth of a process, MiB",
    "declare_ms": "ms to declare all endpoints at once",
    "create_ms": "ms for one more endpoint",
    "connection_kib": "KiB per idle connection, all processes",
    "ideal_per_s": "ideal, requests/s",
    "share_of_ideal": "share of the ideal",
    "refused_share": "refused share of the overloaded endpoint's requests",
    "start_s": "seconds",
}
"""Names of figures in tables. A figure without a name here has its key as its name."""
LOADED: Final = (RATE, "p50_ms", "p99_ms", "cpu_s_per_1000")
NOT_MEASURED = "not measured"
REMARKS: Final[Mapping[str, str]] = {
    "remote-100": "Latencies of calls in windows are those of a whole window.",
    "open-64": (
        "In the open loop, each contender gets half of its own peak at a constant rate. The latency of a request "
        "begins when the request is due. The client shares the cores with the contender, so the table gives the "
        "client's own delay as well."
    ),
    "post-64": "The no-op POST is there for Mosec and LitServe, which have no GET. Mosec handles bytes, LitServe JSON.",
    "scale-8-1000-512": (
        "With 512 connections, each of eight replicas has as many requests in flight as one replica has with 64. "
        "Frames that leave together cost less each, so a replica with few requests in flight costs more per request."
    ),
    "callers-8": "For several processes, the median is the median of their medians, and p99 is the worst p99.",
    "uneven-10": (
        "All policies choose among the same replicas: three take 2 ms a request, one takes 20 ms. They use the same "
        "engine and the same due times. The last policy knows each replica's speed and all requests in flight."
    ),
    "beside-saturated": (
        "The overloaded endpoint waits 0.1 s a request, four at once, with a queue of 16, and gets 400 requests a "
        "second. It needs little CPU, so the row measures the cost of sharing a proxy, not of sharing a core. CPU time "
        "includes both endpoints."
    ),
    "work-1": "The direct calls come from a single loop, whatever the number of connections.",
    "events-64": "In row 10, a request is one event, counted by its blank line, or one WebSocket message and its echo.",
}


def markdown(run: Run) -> str:
    """Return the whole report."""
    return "\n".join([*_head(run), "", *_bars(run), "", *_tables(run), *_remarks(run)]) + "\n"


def number(value: float) -> str:
    """Return *value* with about three digits, and commas between thousands."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"


def _span(found: Spread | None, unit: str = "", absent: str = NOT_MEASURED) -> str:
    if found is None:
        return absent
    if found.low == found.high:
        return number(found.median) + unit
    return f"{number(found.median)}{unit} ({number(found.low)}-{number(found.high)})"


def _head(run: Run) -> Iterator[str]:
    machine, settings = run.machine, run.settings
    yield (
        f"Measured {settings['date']}: {machine['cores']} cores ({machine['processor']}), "
        f"{machine['memory_gib']} GiB, {machine['system']}, Python {machine['python']}; "
        + ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        + "."
    )
    yield ""
    yield (
        f"Rounds: {settings['rounds']}, each in the reverse order of the round before. Each point: "
        f"{settings['seconds']:g} s after {settings['warm_seconds']:g} s of warm-up. HTTP load: "
        f"{settings['generator']}, closed loop. The tables show medians over the rounds, with the lowest and highest "
        "round in brackets. Ratios compare figures of the same round. CPU time is the sum over all processes of a "
        "contender, including Python callers but not the HTTP load generator. The median ratio decides about a bar."
    )


def _bars(run: Run) -> Iterator[str]:
    yield "| bar | limit | measured | |"
    yield "|---|---|---|---|"
    for bar in BARS:
        yield _bar_line(judge(run, bar))


def _bar_line(verdict: Verdict) -> str:
    bar = verdict.bar
    word = {True: "cleared", False: "**missed**", None: ""}[verdict.cleared]
    unit = "" if bar.peer is None else " ms" if bar.difference else " x"
    return f"| {_promise(bar)} | {bar.limit} {bar.factor:,g}{unit} | {_span(verdict.found, unit)} | {word} |"


def _promise(bar: Bar) -> str:
    what = f"{figure_name(bar.figure)}, {POINTS[bar.point].label}"
    if bar.peer is None:
        return what
    other = f", {POINTS[bar.peer_point].label}" if bar.peer_point else ""
    whom = "" if bar.peer == bar.contender else ENTRIES[bar.peer].label
    return f"{what}, {'added to' if bar.difference else 'to'} {(whom + other).removeprefix(', ')}"


def figure_name(figure: str) -> str:
    """Return the name of a figure in tables."""
    return FIGURES.get(figure, figure)


def _tables(run: Run) -> Iterator[str]:
    for key in run.settings["rows"]:
        yield f"### {ROWS[key].title}"
        yield ""
        yield from _samples(run, ROWS[key])
        yield from _readings(run, ROWS[key])
        if key == 9:
            yield from footprint.lines(run.footprints)
            yield ""


def _samples(run: Run, row: Row) -> Iterator[str]:
    names = {point.name for point in row.points}
    if any(sample.point in names for sample in run.samples):
        figures = " | ".join(map(figure_name, LOADED))
        yield f"| load | contender | {figures} | ratio of serve_bridge, or of the forwarded view, to it |"
        yield "|---|---|---|---|---|---|---|"
        for point in row.points:
            yield from _sample_lines(run, point)
        yield ""


def _sample_lines(run: Run, point: Point) -> Iterator[str]:
    label = point.label
    for name, entry in ENTRIES.items():
        if not run.of(name, point.name):
            continue
        cells = [_span(run.spread(name, point.name, figure), absent="") for figure in LOADED]
        ours, peer = (OURS, name) if entry.plain is None else (name, entry.plain)
        ratio = run.ratio((ours, point.name), (peer, point.name), RATE)
        against = "" if ours == peer or ratio is None else _span(ratio, " x")
        yield f"| {label} | {entry.label} | {' | '.join(cells)} | {against} |"
        label = ""


def _readings(run: Run, row: Row) -> Iterator[str]:
    """Yield one table for all points with the same figures, in the order of the row."""
    tables: dict[tuple[str, ...], list[Point]] = {}
    for point in row.points:
        found = {one.figure for one in run.readings if one.point == point.name}
        if found:
            tables.setdefault(tuple(sorted(found, key=_order)), []).append(point)
    for figures, points in tables.items():
        yield f"| what | contender | {' | '.join(map(figure_name, figures))} |"
        yield "|---|---|" + "---|" * len(figures)
        for point in points:
            yield from _reading_lines(run, point, figures)
        yield ""


def _reading_lines(run: Run, point: Point, figures: tuple[str, ...]) -> Iterator[str]:
    label = point.label
    for name, entry in ENTRIES.items():
        cells = [_span(run.spread(name, point.name, figure), absent="") for figure in figures]
        if any(cells):
            yield f"| {label} | {entry.label} | {' | '.join(cells)} |"
            label = ""


def _order(figure: str) -> tuple[int, str]:
    known = list(FIGURES)
    return (known.index(figure) if figure in known else len(known), figure)


def _remarks(run: Run) -> Iterator[str]:
    for place, reason in run.absent.items():
        name, _, point = place.partition("/")
        where = f" at {POINTS[point].label}" if point else ""
        yield f"- {ENTRIES[name].label}{where}: the measurement did not finish: {reason.strip().splitlines()[-1]}"
    failed = [sample for sample in run.samples if sample.errors]
    if failed:
        places = sorted({f"{ENTRIES[one.contender].label} at {POINTS[one.point].label}" for one in failed})
        yield f"- {sum(one.errors for one in failed):,} requests had no good answer: {'; '.join(places)}."
    noisy = [one.foreign_cores for one in run.samples if one.foreign_cores > QUIET_CORES]
    if noisy:
        yield (
            f"- In {len(noisy)} of {len(run.samples)} samples, other programs kept more than {QUIET_CORES:g} cores "
            f"busy, and up to {max(noisy):.1f} cores. Measure again on a quiet machine."
        )
    measured = {sample.point for sample in run.samples}
    yield from (f"- {remark}" for point, remark in REMARKS.items() if point in measured)
