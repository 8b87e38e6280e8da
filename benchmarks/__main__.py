"""The command line: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from benchmarks import quick
from benchmarks.contenders.entries import ENTRIES
from benchmarks.load import web_load
from benchmarks.measurement import Plan, measure
from benchmarks.reports import machine
from benchmarks.reports.bars import BARS, judge
from benchmarks.reports.report import markdown
from benchmarks.results import Run
from benchmarks.rows import footprint
from benchmarks.rows.points import MEASURES, ROWS

RESULTS = Path(__file__).with_name("results")


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in ENTRIES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no contender {', '.join(unknown)}; there are: {', '.join(ENTRIES)}")
    return names


def _rows(text: str) -> list[int]:
    rows = [int(row) for row in text.split(",")]
    unknown = [str(row) for row in rows if row not in ROWS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no row {', '.join(unknown)}; there are: {', '.join(map(str, ROWS))}")
    return rows


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure serve_bridge beside its peers.")
    parser.add_argument(
        "--quick", action="store_true", help="one round of one second for some points: a first look, not a measurement"
    )
    parser.add_argument("--rows", type=_rows, default=list(ROWS), help="numbers, with commas between (default: all)")
    parser.add_argument("--contenders", type=_names, default=list(ENTRIES), help=f"of: {', '.join(ENTRIES)}")
    parser.add_argument("--rounds", type=int, default=2, help="(default: 2)")
    parser.add_argument("--seconds", type=float, default=2.0, help="measured time of a point (default: 2)")
    parser.add_argument("--json", type=Path, help="file of the run (default: results/DATE.json)")
    parser.add_argument("--show", type=Path, metavar="JSON", help="print a saved run and measure nothing")
    parser.add_argument("--check", action="store_true", help="exit with 1 unless every bar is cleared")
    return parser.parse_args()


def _plan(asked: argparse.Namespace) -> Plan:
    points = [point for row in asked.rows for point in ROWS[row].points]
    places = {(name, point.name) for name in asked.contenders for point in points}
    own = [measure_row for row in asked.rows for measure_row in MEASURES.get(row, ())]
    if asked.quick:
        looks = set(filter(quick.looks_at, places))
        return Plan(asked.contenders, points, looks, 1, quick.SECONDS, quick.WARM_SECONDS, own, tries=1)
    return Plan(asked.contenders, points, places, asked.rounds, asked.seconds, 1.0, own)


def _measured(asked: argparse.Namespace) -> Run:
    plan = _plan(asked)
    now = datetime.now(UTC)
    settings = {
        "date": f"{now:%Y-%m-%d}",
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "warm_seconds": plan.warm_seconds,
        "generator": web_load.generator(),
        "rows": asked.rows,
    }
    run = Run(machine.describe(), settings)
    path = asked.json or RESULTS / f"{now:%Y-%m-%d}.json"
    began = monotonic()
    try:
        measure(plan, run, lambda text: print(f"{monotonic() - began:6.1f} s  {text}", file=sys.stderr, flush=True))
        if 9 in asked.rows:
            run.footprints = footprint.measure(2 if asked.quick else footprint.TRIES)
    finally:
        run.write(path)  # the figures of an interrupted run are still useful
    return run


def main() -> int:
    """Measure or read a run, print its report, and return the exit status."""
    asked = _arguments()
    run = Run.read(asked.show) if asked.show else _measured(asked)
    print(markdown(run), end="")
    cleared = all(judge(run, bar).cleared for bar in BARS)
    return 0 if cleared or not asked.check else 1


if __name__ == "__main__":
    sys.exit(main())
