"""`python -m prose [--long] [FILE ...]`: print the sentences that break a rule; exit with 1 above a limit.

Without files it judges README.md, docs/ and serve_bridge/. Pages and modules are counted apart.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from prose.passages import passages_of
from prose.rules import HEADLESS, THAT, Count, count

REPOSITORY: Final = Path(__file__).parent.parent
JUDGED: Final = ("README.md", "docs", "serve_bridge")
KINDS: Final = {".md": "docs", ".py": "code"}


def main(words: list[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="prose", description="Judge the language of pages and modules.")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="pages, modules or directories of them")
    parser.add_argument("--long", action="store_true", help="list long sentences too")
    given = parser.parse_args(words)
    found = {file: count(passages_of(file)) for file in _files(given.files or [REPOSITORY / name for name in JUDGED])}
    totals: dict[str, Count] = {}
    for file, counted in found.items():
        totals.setdefault(KINDS[file.suffix], Count()).add(counted)
    for file, counted in found.items():
        too_much = totals[KINDS[file.suffix]].too_much
        for finding in counted.findings:
            if {"long": given.long, "that": "that" in too_much}.get(finding.rule, True):
                print(f"{_shown(file)}:{finding.line}: {finding.rule}: {finding.sentence}")
    for kind, total in sorted(totals.items()):
        print(
            f"{kind}: {total.words} words in {total.sentences} sentences; headless {total.headless}"
            f" ({_of_thousand(total.headless, total.sentences)} of 1,000, at most {HEADLESS}); that {total.that}"
            f" ({_of_thousand(total.that, total.words)} of 1,000, at most {THAT}); listed words {total.listed}"
        )
    return int(any(total.too_much for total in totals.values()))


def _files(given: Iterable[Path]) -> Iterator[Path]:
    """Yield each page and module of *given*, in order."""
    for path in given:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix in KINDS)
        elif path.suffix in KINDS:
            yield path
        else:
            raise SystemExit(f"{path} is not a page (.md) and not a module (.py)")


def _shown(file: Path) -> Path:
    return file.relative_to(REPOSITORY) if file.is_absolute() and file.is_relative_to(REPOSITORY) else file


def _of_thousand(part: int, whole: int) -> str:
    return f"{1000 * part / max(whole, 1):.1f}"


if __name__ == "__main__":
    raise SystemExit(main())
