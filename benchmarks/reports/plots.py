"""Draw a saved run: `python -m benchmarks.reports.plots RUN.json DIRECTORY` writes one PNG for each subject.

The program prints the Markdown lines of the plots, for a page beside the directory.

Rule 1: a plot shows medians over the rounds, each with a line from the lowest to the highest round.
Rule 2: a contender has the same colour in every plot, from a palette for colour-blind readers (Okabe and Ito).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.contenders.entries import ENTRIES, OURS
from benchmarks.reports.report import number
from benchmarks.results import Run, Spread

Ticks = Mapping[str, str]
"""Points, and their names on the axis."""

WEB: Final = (OURS, "bare", "mosec", "litserve", "ray-serve-haproxy", "ray-serve")
COLOURS: Final[Mapping[str, str]] = {
    OURS: "#0072B2",
    "bare": "#000000",
    "direct": "#999999",
    "ray-serve": "#D55E00",
    "ray-serve-haproxy": "#E69F00",
    "ray-actor-async": "#CC79A7",
    "ray-actor-sync": "#F0E442",
    "celery": "#009E73",
    "mosec": "#56B4E9",
    "litserve": "#999999",
    "round-robin": "#D55E00",
    "fewest-in-flight": "#E69F00",
    "soonest-answer": "#000000",
}
DPI: Final = 110
STYLE: Final[Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
}


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: Title of the axes.
        figure: Attribute of a sample, or figure of a reading.
        unit: Label of the axis of the figure.
        ticks: The points along the other axis.
        contenders: Keys of the contenders. Contenders without figures are left out.
        kind: Bars side by side, or a line over the ticks.
        log: Whether the axis of the figure is logarithmic.
        limit: The limit of a bar, drawn as a line.
        factor: Factor from the saved figure to the drawn figure.
        along: Label of the other axis.
    """

    title: str
    figure: str
    unit: str
    ticks: Ticks
    contenders: Sequence[str] = WEB
    kind: Literal["bars", "lines"] = "bars"
    log: bool = False
    limit: float | None = None
    factor: float = 1.0
    along: str = ""


_CONNECTIONS: Final = {"http-1": "1", "http-16": "16", "http-64": "64", "http-256": "256"}
_POSTS: Final = {"post-1": "1", "post-64": "64"}
_EVENTS: Final = {"events-1": "1", "events-64": "64"}
_MESSAGES: Final = {"websocket-1": "1", "websocket-64": "64"}
_SIZES: Final = {"echo-1k": "1 KiB", "echo-100k": "100 KiB", "echo-1m": "1 MiB", "echo-10m": "10 MiB"}
_REPLICAS: Final = {"scale-1": "1", "replicas-2": "2", "replicas-4": "4", "replicas-8": "8"}
_ENDPOINTS: Final = {"scale-1": "1", "endpoints-100": "100", "endpoints-1000": "1,000", "endpoints-10000": "10,000"}
_CALLERS: Final = {"callers-1": "1", "callers-8": "8", "callers-32": "32"}
_CALLS: Final = {
    "call-1": "call(),\n1 thread",
    "acall-64": "acall(),\n64 in flight",
    "remote-1": "remote()\nand get",
    "remote-100": "remote(),\nwindows of 100",
}
_BATCHES: Final = {
    "batch-http-8": "8, HTTP",
    "batch-acall-8": "8, acall()",
    "batch-http-32": "32, HTTP",
    "batch-acall-32": "32, acall()",
}
_PYTHON: Final = (OURS, "ray-actor-async", "ray-actor-sync", "ray-serve-haproxy", "ray-serve", "celery")
_UNEVEN: Final = ("soonest-answer", OURS, "fewest-in-flight", "round-robin")
_LOADS: Final = {"uneven-10": "a tenth of the capacity", "uneven-50": "half of it"}

PLOTS: Final[Mapping[str, tuple[Panel, ...]]] = {
    "throughput": (
        Panel("No-op GET", "requests_per_s", "requests/s", _CONNECTIONS, kind="lines", log=True, along="connections"),
        Panel("No-op POST", "requests_per_s", "requests/s", _POSTS, log=True, along="connections"),
    ),
    "latency": (
        Panel("Median of a no-op GET", "p50_ms", "ms", _CONNECTIONS, kind="lines", log=True, along="connections"),
        Panel("99th percentile of them", "p99_ms", "ms", _CONNECTIONS, kind="lines", log=True, along="connections"),
    ),
    "cpu": (
        Panel(
            "CPU time of all processes, no-op GET", "cpu_s_per_1000", "CPU ms a request", _CONNECTIONS, log=True,
            along="connections",
        ),
    ),
    "calls": (
        Panel("No-op call from Python", "requests_per_s", "calls/s", _CALLS, _PYTHON, log=True),
    ),
    "echo": (
        Panel("Echo", "requests_per_s", "requests/s", _SIZES, kind="lines", log=True, along="body"),
        Panel("Echo, 99th percentile", "p99_ms", "ms", _SIZES, kind="lines", log=True, along="body"),
    ),
    "events": (
        Panel("Server-sent events", "requests_per_s", "events/s", _EVENTS, log=True, along="streams"),
        Panel(
            "WebSocket echo", "requests_per_s", "messages/s", _MESSAGES, log=True,
            along="connections",
        ),
    ),
    "scale": (
        Panel("64 connections", "cpu_s_per_1000", "CPU ms a request", _REPLICAS, (OURS,), along="replicas"),
        Panel("64 connections", "cpu_s_per_1000", "CPU ms a request", _ENDPOINTS, (OURS,), along="endpoints"),
        Panel("Sync calls", "requests_per_s", "calls/s", _CALLERS, (OURS,), along="calling processes"),
    ),
    "uneven": (
        Panel("Four replicas, one ten times slower", "p50_ms", "median, ms", _LOADS, _UNEVEN, log=True, along="load"),
        Panel("Four replicas, one ten times slower", "p99_ms", "p99, ms", _LOADS, _UNEVEN, log=True, along="load"),
    ),
    "batching": (
        Panel(
            "A model that takes 5 ms a batch", "share_of_ideal", "share of the ideal", _BATCHES, (OURS,), limit=0.95,
            along="size of a batch",
        ),
    ),
    "work": (
        Panel(
            "A handler that works for 5 ms", "requests_per_s", "requests/s", {"work-1": "1", "work-16": "16"},
            ("direct", *WEB), along="connections",
        ),
    ),
    "start": (
        Panel(
            "Starting, with Ray running", "start_s", "seconds",
            {"first-answer": "to the first answer", "one-replica-more": "one replica more"},
        ),
    ),
}  # fmt: skip


def draw(run: Run, directory: Path) -> list[Path]:
    """Draw every subject with figures in *run*, and return the files."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, panels in PLOTS.items():
        measured = [panel for panel in panels if any(True for _ in _series(run, panel))]
        if measured:
            with matplotlib.rc_context(STYLE):
                figure = _figure(run, measured)
                written.append(directory / f"{name}.png")
                # The file holds no date and no version, so the same run gives the same file.
                figure.savefig(written[-1], dpi=DPI, metadata={"Software": None})
    return written


def _figure(run: Run, panels: Sequence[Panel]) -> Figure:
    figure = Figure(figsize=(max(5.2, 4.2 * len(panels)), 3.6), layout="constrained")
    labels: dict[str, Any] = {}
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        labels |= _draw_panel(axes, run, panel)
    if len(labels) > 1:
        columns = 2 if len(panels) == 1 else 4
        figure.legend(list(labels.values()), list(labels), loc="outside lower center", ncols=columns)
    return figure


def _draw_panel(axes: Any, run: Run, panel: Panel) -> dict[str, Any]:
    series = list(_series(run, panel))
    ticks = [tick for tick in panel.ticks if any(tick in found for _, found in series)]
    handles = {}
    for place, (contender, found) in enumerate(series):
        shown = [(ticks.index(tick), spread) for tick, spread in found.items()]
        shift = 0.0 if panel.kind == "lines" else (place - (len(series) - 1) / 2) * 0.8 / len(series)
        at = [position + shift for position, _ in shown]
        medians = [spread.median * panel.factor for _, spread in shown]
        reach = [
            [(spread.median - spread.low) * panel.factor for _, spread in shown],
            [(spread.high - spread.median) * panel.factor for _, spread in shown],
        ]
        colour = COLOURS[contender]
        if panel.kind == "lines":
            handle = axes.errorbar(at, medians, reach, color=colour, marker="o", markersize=4, capsize=3)
        else:
            handle = axes.bar(at, medians, 0.74 / len(series), color=colour, yerr=reach, ecolor="#555555", capsize=2)
            _write_values(axes, at, [spread.high * panel.factor for _, spread in shown], medians, len(series))
        handles[ENTRIES[contender].label] = handle
    axes.set_xticks(range(len(ticks)), [panel.ticks[tick] for tick in ticks])
    axes.set(title=panel.title, xlabel=panel.along, ylabel=panel.unit)
    if panel.log:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
    if panel.kind == "bars":
        _leave_room(axes)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    if panel.limit is not None:
        axes.axhline(panel.limit, color="#D55E00", linestyle="--", linewidth=1.2)
        axes.set_title(f"{panel.title} (dashed: the bar, {panel.limit:g})")
    return handles


def _leave_room(axes: Any) -> None:
    """Leave space between the title and the numbers above the bars."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.2 if low else high * 1.25)


def _write_values(axes: Any, at: Sequence[float], tops: Sequence[float], values: Sequence[float], beside: int) -> None:
    turned = 90 if beside > 2 else 0
    for x, top, value in zip(at, tops, values, strict=True):
        axes.annotate(
            number(value), (x, top), (0, 3), textcoords="offset points", ha="center", fontsize=7, rotation=turned
        )


def _series(run: Run, panel: Panel) -> Iterator[tuple[str, dict[str, Spread]]]:
    """Yield each contender with figures, and its figures by tick."""
    for contender in panel.contenders:
        found = {tick: run.spread(contender, tick, panel.figure) for tick in panel.ticks}
        known = {tick: spread for tick, spread in found.items() if spread is not None}
        if known:
            yield contender, known


def main() -> None:
    """Draw the run of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reports.plots", description="Draw a saved run.")
    parser.add_argument("run", type=Path, help="the JSON of a run")
    parser.add_argument("directory", type=Path, help="the directory for the PNGs")
    asked = parser.parse_args()
    for path in draw(Run.read(asked.run), asked.directory):
        titles = ", ".join(dict.fromkeys(panel.title for panel in PLOTS[path.stem]))
        print(f"![{titles}]({asked.directory.name}/{path.name})")


if __name__ == "__main__":
    main()
