"""Tests promises and refreshes their rows of docs/reliability.md: `python -m tests.faults.report P9 P11`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

from tests.faults.report import page
from tests.faults.report.figures import VARIABLE
from tests.faults.report.promises import PROMISES


def measure(row: str, scale: str) -> page.Result:
    """Run the tests of *row* and return the result."""
    with tempfile.TemporaryDirectory() as directory:
        figures, junit = Path(directory, "figures"), Path(directory, "junit.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "--timeout", "3600"]
        environment = {**os.environ, "FAULTS_SCALE": scale, VARIABLE: str(figures)}
        ended = subprocess.run([*command, "--junitxml", str(junit), *PROMISES[row].tests], env=environment, check=False)
        suite = next(ElementTree.parse(junit).iter("testsuite")).attrib if junit.exists() else {}
        noted = [json.loads(line) for line in figures.read_text().splitlines()] if figures.exists() else []
    cases = int(suite.get("tests", 0)) - int(suite.get("skipped", 0))
    texts = [each["figure"] for each in noted if not each["figure"].startswith("C = ")] or [f"{cases} test cases"]
    # The capacity is measured first, and comes last in the row.
    texts += [each["figure"] for each in noted if each["figure"].startswith("C = ")]
    return page.Result(
        figure="; ".join(dict.fromkeys(texts)),
        count=sum(each["count"] for each in noted) or cases,
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        command=f"FAULTS_SCALE={scale} python -m tests.faults.report {row}",
        passed=ended.returncode == 0 and cases > 0,
    )


def main() -> int:
    """Refresh the asked rows, write the page, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.report", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of: {', '.join(PROMISES)}, or: all")
    asked = parser.parse_args()
    rows = list(PROMISES) if asked.rows == ["all"] else asked.rows
    unknown = [row for row in rows if row not in PROMISES]
    if unknown:
        parser.error(f"no row {', '.join(unknown)}")
    failed = []
    for row in rows:
        result = measure(row, os.environ.get("FAULTS_SCALE", "1"))
        page.keep(row, result)
        page.write()
        print(f"{row}: {result.figure}: {'passed' if result.passed else 'FAILED'}", flush=True)
        failed += [] if result.passed else [row]
    page.write()
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
