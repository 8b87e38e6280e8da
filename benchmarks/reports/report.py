"""A run as the Markdown that `docs/benchmarks.md` shows. Pure: a run in, text out."""

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
    "lag_ms": "of p99 the client's own, ms",
    "rss_controller_mib": "controller MiB",
    "rss_proxy_mib": "proxy MiB",
    "rss_replica_mib": "replica MiB",
    "mib_per_s": "MiB/s",
    "growth_mib": "largest growth of a process, MiB",
    "declare_ms": "all endpoints declared at once, ms",
    "create_ms": "one endpoint more, ms",
    "connection_kib": "KiB an idle connection, all processes",
    "ideal_per_s": "ideal, requests/s",
    "share_of_ideal": "share of the ideal",
    "refused_share": "share of the overloaded endpoint's requests that was refused",
    "start_s": "seconds",
}
"""What tables call the figures of samples and readings; one that is not here is called by its key."""
LOADED: Final = (RATE, "p50_ms", "p99_ms", "cpu_s_per_1000")
NOT_MEASURED = "not measured"
REMARKS: Final[Mapping[str, str]] = {
    "remote-100": "Latencies of calls in windows are those of a whole window.",
    "open-64": (
        "In the open loop each contender gets half of its own peak, at a constant rate; latencies count from when a "
        "request was due. The client shares the cores with whom it measures: what it was late itself is beside it."
    ),
    "post-64": ("Mosec and LitServe have no GET, so all POST there. Mosec gets and gives bytes; LitServe parses JSON."),
    "scale-8-1000-512": (
        "With 512 connections each of eight replicas has as many requests in flight as one has with 64. Frames "
        "that leave together cost less each, so a replica that has few of them costs more a request."
    ),
    "callers-8": "Of several processes the median is that of their medians, p99 the worst one's.",
    "uneven-10": (
        "All choose among the same kind of replicas (2 ms a request, one 20), over the same engine; "
        "requests are due at the same times. The last choice knows each replica's speed and all that is in flight."
    ),
    "beside-saturated": (
        "The overloaded endpoint waits 0.1 s a request, four at once, with a line of 16, and is offered 400 a second: "
        "what is measured is who shares a proxy with it, not who shares a core. CPU time is that of both endpoints."
    ),
    "work-1": "What calls the handler directly is one loop that does nothing else, at each number of connections.",
    "events-64": "A request is an event there, told by the blank line after it, or a message, sent and got back.",
}


def markdown(run: Run) -> str:
    """Return the whole report."""
    return "\n".join([*_head(run), "", *_bars(run), "", *_tables(run), *_remarks(run)]) + "\n"


def number(value: float) -> str:
    """Return *value* with about three figures, thousands separated."""
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
        f"Rounds: {settings['rounds']}, the order turned round in each; {settings['seconds']:g} s a point "
        f"after {settings['warm_seconds']:g} s of warming up. HTTP load: {settings['generator']}, closed "
        "loop. Medians over the rounds, lowest and highest in brackets; a ratio is taken within each round. "
        "CPU is summed over every process of a contender, Python callers included, the HTTP load generator "
        "not. A bar is judged by the median ratio."
    )


def _bars(run: Run) -> Iterator[str]:
    yield "| bar | wanted | measured | |"
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
    whom = "" if bar.peer == bar.ours else ENTRIES[bar.peer].label
    return f"{what}, {'added to' if bar.difference else 'to'} {(whom + other).removeprefix(', ')}"


def figure_name(figure: str) -> str:
    """Return what tables call a figure."""
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
        yield f"| load | contender | {figures} | serve_bridge, or the forwarded view, answers |"
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
    """One table for all points that have the same figures, in the order of the row."""
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
        yield f"- {ENTRIES[name].label}{where} was not measured to the end: {reason.strip().splitlines()[-1]}"
    failed = [sample for sample in run.samples if sample.errors]
    if failed:
        places = sorted({f"{ENTRIES[one.contender].label} at {POINTS[one.point].label}" for one in failed})
        yield f"- {sum(one.errors for one in failed):,} requests had no good answer: {'; '.join(places)}."
    noisy = [one.foreign_cores for one in run.samples if one.foreign_cores > QUIET_CORES]
    if noisy:
        yield (
            f"- In {len(noisy)} of {len(run.samples)} samples other programs kept more than "
            f"{QUIET_CORES:g} cores busy, at most {max(noisy):.1f}: measure again on a quiet machine."
        )
    measured = {sample.point for sample in run.samples}
    yield from (f"- {remark}" for point, remark in REMARKS.items() if point in measured)
