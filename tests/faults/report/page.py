"""The page docs/reliability.md, from the kept results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tests.faults.report.promises import PROMISES

RESULTS: Final = Path(__file__).with_name("results.json")
PAGE: Final = Path("docs/reliability.md")
_HEAD: Final = """# Reliability

This page lists the promises of serve_bridge and the result of the last test of each. `make faults` tests all of them
at full count. `python -m tests.faults.report P9` tests one again and refreshes its row. CI tests all of them at a
smaller count.

The count of a row is the number of faults or requests of that run, or of test cases. Rows with a small count say what
was measured, and no more: no failure in `N` trials bounds the rate of failure at about `3 / N`. The times come from a
machine with two cores that was busy with other work.

An oracle judges each run with load. It compares the log of the callers with the log of the replicas:

- Each request has exactly one outcome, and its own answer.
- A request that is not idempotent starts at most once.
- A request whose error says `executed: no` has not started.
- Nothing starts after its deadline, and retries stay within their budget.

`C` is the capacity of the same machine in the same run: the requests a second of a closed loop with 32 connections,
the median of five rounds. The bare server is Starlette under uvicorn, in one process, with the same handler. The
machine was busy with other work, so compare the times of a row with its `C` only.

"""
_NOT_YET: Final = "not yet measured"


@dataclass(frozen=True)
class Result:
    """The last test of a promise.

    Attributes:
        figure, count: The measurement, and the number of trials.
        date: The day, as year-month-day.
        command: The command that repeats it.
        passed: Whether all of its tests passed.
    """

    figure: str
    count: int
    date: str
    command: str
    passed: bool


def results() -> dict[str, Result]:
    """Return the kept results."""
    return {row: Result(**kept) for row, kept in json.loads(RESULTS.read_text()).items()} if RESULTS.exists() else {}


def keep(row: str, result: Result) -> None:
    """Keep *result* as the last one of *row*."""
    kept = {name: asdict(each) for name, each in {**results(), row: result}.items()}
    RESULTS.write_text(json.dumps({row: kept[row] for row in PROMISES if row in kept}, indent=1) + "\n")


def markdown(kept: Mapping[str, Result]) -> str:
    """Return the page."""
    lines = [_HEAD, "| | Promise | Figure | Count | Date | Result |\n", "| --- | --- | --- | --- | --- | --- |\n"]
    for row, promise in PROMISES.items():
        found = kept.get(row)
        cells = (
            (found.figure, f"{found.count:,}", found.date, "passed" if found.passed else "**failed**")
            if found is not None
            else (_NOT_YET, "", "", "")
        )
        lines.append(f"| {row} | {promise.text} | {' | '.join(cells)} |\n")
    lines.append("\n## Tests and commands\n\n| | Tests | Command of the row |\n| --- | --- | --- |\n")
    for row, promise in PROMISES.items():
        tests = "<br>".join(f"`{test}`" for test in promise.tests)
        lines.append(f"| {row} | {tests} | {f'`{kept[row].command}`' if row in kept else ''} |\n")
    return "".join(lines)


def write() -> None:
    """Write the page."""
    PAGE.write_text(markdown(results()))
