"""The figures that fault tests note for the page, in the file that FAULTS_FIGURES names; without it, nowhere."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.support.oracle import Run

VARIABLE = "FAULTS_FIGURES"


def note(count: int, figure: str) -> None:
    """Note that *count* faults or requests had the result *figure*."""
    if path := os.environ.get(VARIABLE):
        with Path(path).open("a") as file:
            file.write(json.dumps({"count": count, "figure": figure}) + "\n")


def note_run(run: Run, **faults: int) -> None:
    """Note how the requests of *run* went, and how many *faults* of each kind there were."""
    failed = run.failed()
    unknown = sum(outcome.executed == "unknown" for outcome in failed)
    times = sorted(outcome.done - outcome.intended for outcome in run.outcomes if outcome.ok) or [0.0]
    parts = [f"{number} {kind}" for kind, number in faults.items()]
    parts += [f"{len(run.outcomes)} requests", f"{len(failed)} failed" + (f" ({unknown} `unknown`)" if failed else "")]
    parts.append(f"p99 {1000 * times[int(len(times) * 0.99) - 1]:.0f} ms")
    note(sum(faults.values()) or len(run.outcomes), ", ".join(parts))
