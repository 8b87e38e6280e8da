"""`python -m matrix pythons`, `python -m matrix quick` and `python -m matrix ROW ...`; see the Makefile."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from matrix.pythons import PYTHONS, REPOSITORY, Unavailable
from matrix.rows import IN_CI, ROWS, SHOWN

TABLE: Final = REPOSITORY / "docs" / "versions.md"
BEGIN, END = "<!-- matrix: written by `make matrix` -->", "<!-- end of the matrix -->"
COLUMNS: Final = ("Row", "Python", *SHOWN, "Tests", "Result")


def main(words: list[str]) -> int:
    """Do what the command line says; return the exit code."""
    if words == ["pythons"]:
        for python in PYTHONS:
            python.build()
            print(f"Python {python.version} is in {python.root.relative_to(REPOSITORY)}")
        return 0
    if words == ["quick"]:
        return _quick()
    rows = [row for row in ROWS if not words or row.name in words]
    if len(rows) < len(words):
        raise SystemExit(f"the rows are: {', '.join(repr(row.name) for row in ROWS)}")
    failed = False
    for row in rows:
        row.prepare()
        passed, cells = row.run()
        print(f"{row.name}: {cells['Result']}", flush=True)
        _write(TABLE, {"Row": row.name, **cells})
        failed |= not passed
    return int(failed)


def _quick() -> int:
    """Run the row that a change must pass; a machine that cannot make its Python says so and passes."""
    try:
        IN_CI.prepare()
    except Unavailable as reason:
        print(f"NOT RUN: the tests on Python 3.13 with Django 6.1: {reason}", flush=True)
        return 0
    passed, cells = IN_CI.run()
    print(f"Python {cells['Python']} with Django {cells['Django']}: {cells['Result']}", flush=True)
    return int(not passed)


def _write(file: Path, cells: dict[str, str]) -> None:
    """Put one row into the table of *file*."""
    before, _, rest = file.read_text().partition(BEGIN)
    table, _, after = rest.partition(END)
    kept = {line.split("|")[1].strip(): line for line in table.splitlines()[3:] if line.startswith("|")}
    kept[cells["Row"]] = _line([cells.get(column, "") for column in COLUMNS])
    ordered = [kept[row.name] for row in ROWS if row.name in kept]
    head = [_line(COLUMNS), _line(["---"] * len(COLUMNS))]
    file.write_text(before + "\n".join([BEGIN, *head, *ordered, END]) + after)


def _line(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
    except Unavailable as reason:
        raise SystemExit(f"this machine cannot make another Python: {reason}") from None
    raise SystemExit(code)
