"""Run the type checkers over the public API: `python -m tests.typing`, which `make typing` does.

Rule 1: `accepted.py` has no error for any checker. In `refused.py` each checker reports exactly the marked lines.
Rule 2: pyright knows the type of every public name (`--verifytypes`).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
FILES: Final = ("backends.py", "accepted.py", "refused.py")
PUBLIC: Final = (
    "serve_bridge",
    "serve_bridge.adapters",
    "serve_bridge.adapters.asgi",
    "serve_bridge.adapters.environ",
    "serve_bridge.adapters.flask",
    "serve_bridge.adapters.starlette",
    "serve_bridge.adapters.wsgi",
    "serve_bridge.client",
    "serve_bridge.config",
    "serve_bridge.errors",
    "serve_bridge.testing",
    "serve_bridge.testing.contract",
    "serve_bridge.testing.plugin",
)
"""The packages with public names, except those for Django, which ships no types."""
MARK: Final = "# refused"


def main() -> int:
    """Return 0 if every checker agrees with the marks, otherwise 1; print the differences."""
    expected = {
        (file, number)
        for file in FILES
        for number, line in enumerate((HERE / file).read_text().splitlines(), 1)
        if line.endswith(MARK)
    }
    failed = False
    for name, check in CHECKERS.items():
        found = check()
        for file, number in sorted(expected - found.keys()):
            failed = True
            print(f"{name}: tests/typing/{file}:{number}: no error where one is expected")
        for (file, number), text in sorted(found.items()):
            if (file, number) not in expected:
                failed = True
                print(f"{name}: tests/typing/{file}:{number}: {text}")
        print(f"{name}: {len(expected & found.keys())} of {len(expected)} mistakes found")
    unknown = unknown_types()
    print(*unknown, sep="\n")
    return int(failed or bool(unknown[1:]))


Errors = dict[tuple[str, int], str]


def mypy() -> Errors:
    """Return the errors of mypy, by file and line."""
    output = _run("mypy", "--strict", "--no-error-summary", "--no-pretty", "--explicit-package-bases", *_paths())
    return _located(output, r"^\S*?(\w+\.py):(\d+): error: (.*)$")


def pyright() -> Errors:
    """Return the errors of pyright, by file and line."""
    report = json.loads(_run("pyright", "--outputjson", "--project", str(HERE / "pyrightconfig.json")))
    errors = (each for each in report["generalDiagnostics"] if each["severity"] == "error")
    return {
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1): each["message"].splitlines()[0]
        for each in errors
    }


def pyrefly() -> Errors:
    """Return the errors of pyrefly, by file and line."""
    options = ("--output-format", "min-text", "--summary", "none", "--python-interpreter-path", sys.executable)
    output = _run("pyrefly", "check", *options, *_paths())
    return _located(output, r"^ERROR \S*?(\w+\.py):(\d+):\S+ (.*)$")


CHECKERS: Final[dict[str, Callable[[], Errors]]] = {"mypy": mypy, "pyright": pyright, "pyrefly": pyrefly}


def unknown_types() -> list[str]:
    """Return how complete the public types are, then each public name whose type pyright does not know.

    pyright takes every module for public. The public names are those of the packages in `PUBLIC`; a name counts as
    unknown if anything that it leads to is.
    """
    report = json.loads(_run("pyright", "--outputjson", "--ignoreexternal", "--verifytypes", "serve_bridge"))
    completeness = report["typeCompleteness"]
    public = [each for each in completeness["symbols"] if each["name"].rpartition(".")[0] in PUBLIC]
    unknown = [each["name"] for each in public if not each["isTypeKnown"]]
    share = 1 - len(unknown) / len(public)
    return [f"pyright --verifytypes: {share:.0%} of {len(public)} public names have a known type", *unknown]


def _paths() -> list[str]:
    return [str(HERE / file) for file in FILES]


def _located(output: str, pattern: str) -> Errors:
    found = re.finditer(pattern, output, re.MULTILINE)
    return {(each[1], int(each[2])): each[3] for each in found if each[1] in FILES}


def _run(tool: str, *arguments: str) -> str:
    """Return what a checker prints; each of them exits with 1 if it finds an error."""
    command = [sys.executable, "-m", tool, *arguments]
    # pyright asks the first `python` of the path which packages are installed.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{tool} cannot run: {done.stderr or done.stdout}")
    return done.stdout


sys.exit(main())
