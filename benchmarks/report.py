"""A run as the Markdown that `docs/benchmarks.md` shows. Pure: a run in, text out."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import footprint
from benchmarks.bars import BARS, Verdict, judge
from benchmarks.contenders import ENTRIES, OURS
from benchmarks.results import QUIET_CORES, Run, Sample, Spread
from benchmarks.rows import POINTS, ROWS, Point

FIGURE_NAMES = {"requests_per_s": "requests/s", "p50_ms": "p50"}
NOT_MEASURED = "not measured"


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


def _span(found: Spread | None, unit: str = "") -> str:
    if found is None:
        return NOT_MEASURED
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
    preposition, unit = ("added to", " ms") if bar.difference else ("to", " x")
    what = f"{FIGURE_NAMES[bar.figure]}, {POINTS[bar.point].label}, {preposition} {ENTRIES[bar.peer].label}"
    word = {True: "cleared", False: "**missed**", None: ""}[verdict.cleared]
    return f"| {what} | {bar.limit} {bar.factor:g}{unit} | {_span(verdict.ratio, unit)} | {word} |"


def _tables(run: Run) -> Iterator[str]:
    for key in run.settings["rows"]:
        yield f"### {ROWS[key].title}"
        yield ""
        if not ROWS[key].points:
            yield from footprint.lines(run.footprints)
            yield ""
            continue
        figures = "requests/s | p50 ms | p99 ms | CPU s / 1,000"
        yield f"| load | contender | {figures} | serve_bridge, or the forwarded view, answers |"
        yield "|---|---|---|---|---|---|---|"
        for point in ROWS[key].points:
            yield from _point_lines(run, point)
        yield ""


def _point_lines(run: Run, point: Point) -> Iterator[str]:
    label = point.label
    for name, entry in ENTRIES.items():
        if not run.of(name, point.name):
            continue
        figures = (_rate, _p50, _p99, _cpu)
        cells = [_span(run.spread(name, point.name, figure)) for figure in figures]
        ours, peer = (OURS, name) if entry.plain is None else (name, entry.plain)
        ratio = run.ratio(ours, peer, point.name, _rate)
        against = "" if ours == peer or ratio is None else _span(ratio, " x")
        yield f"| {label} | {entry.label} | {' | '.join(cells)} | {against} |"
        label = ""


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
    if any(sample.point == "remote-100" for sample in run.samples):
        yield "- Latencies of calls in windows are those of a whole window."


def _rate(sample: Sample) -> float:
    return sample.requests_per_s


def _p50(sample: Sample) -> float:
    return sample.p50_ms


def _p99(sample: Sample) -> float:
    return sample.p99_ms


def _cpu(sample: Sample) -> float:
    return sample.cpu_s_per_1000
