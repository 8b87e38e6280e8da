"""The rows of the matrix: a Python, the versions of the dependencies, and which tests run with them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from matrix.pythons import FOLDER, PYTHONS, REPOSITORY, Python

WEB: Final = "proxy,cli,django,flask,starlette,fastapi"
SHOWN: Final = ("Django", "Flask", "Starlette", "FastAPI", "uvicorn", "websockets", "msgspec", "Ray")
"""The packages whose versions the table has."""
MAIN: Final = ("tests/unit", "tests/local", "tests/adapters", "tests/fuzz", "-m", "not ray")
PASSED_ON: Final = ("EFFORT", "FUZZ_SEED", "RAY_AUTH_MODE")
"""The variables that the tests of every row get."""
QUICK: Final = ("tests/unit", "tests/local", "tests/adapters", "-m", "not ray and not slow", "-k", "not conformance")
"""Without the tests of chance, of limits of seconds and of a browser's protocol, which no version changes."""
RAY: Final = ("tests/ray", "tests/adapters", "-m", "ray")

_VERSIONS: Final = (
    "from importlib.metadata import version; import platform; print(platform.python_version(), *map(version, {}))"
)
_COMPANIONS: Final = Path(__file__).with_name("companions.txt")
"""Versions of indirect dependencies and of test tools that go with the lowest direct ones."""


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        name: As it is called on the command line and in the table.
        python: The Python of Debian that runs it; None: the one that runs this.
        extras: The extras that are installed beside `dev`.
        versions: "lowest" that the metadata allows, "newest", or "pinned" by constraints.txt.
        pins: Requirements that hold instead of those of constraints.txt.
        tests: Arguments of pytest.
    """

    name: str
    python: Python | None
    extras: str
    versions: str
    tests: Sequence[str]
    pins: tuple[str, ...] = ()

    def prepare(self) -> None:
        """Make the row's Python and install what it wants."""
        if self.python is not None:
            self.python.build()
            if not (self.python.root / "opt/venv/bin/uv").exists():
                self._done([f"/usr/bin/python{self.python.version}", "-m", "venv", "/opt/venv"])
                self._done(["/opt/venv/bin/python", "-m", "pip", "install", "--quiet", "uv"])
        elif not (self._environment / "bin/uv").exists():
            FOLDER.mkdir(exist_ok=True)
            self._done([sys.executable, "-m", "venv", str(self._environment)])
            self._done([self._program("python"), "-m", "pip", "install", "--quiet", "uv"])
        # In the repository, which is seen inside of a Python's folder as well.
        with tempfile.NamedTemporaryFile("w", dir=FOLDER, suffix=".txt") as constraints:
            constraints.write("\n".join(self._constraints()) + "\n")
            constraints.flush()
            wanted = f".[{self.extras},dev]"
            install = [
                self._program("uv"),
                "pip",
                "install",
                "--quiet",
                "--upgrade",
                "--python",
                self._program("python"),
            ]
            self._done([*install, "--constraint", constraints.name, "--editable", wanted])

    def run(self) -> tuple[bool, dict[str, str]]:
        """Run the row's tests; return whether they passed, and the cells of the table."""
        shown = [name for name in SHOWN if name != "Ray" or self.extras != WEB]
        versions = self._done([self._program("python"), "-c", _VERSIONS.format(shown)]).split()
        # Whole files, the longest first, with one worker more than there are cores, as `make test` does.
        spread = ["--numprocesses", str((os.cpu_count() or 1) + 1), "--dist", "loadfile", "--no-loadscope-reorder"]
        tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *spread]
        log = FOLDER / f"{self.name.replace(' ', '-')}.log"
        with log.open("w") as output:
            ran = self._run([self._program("python"), *tests, *self.tests], output)
        printed = log.read_text(errors="replace")
        counted = re.findall(r"^=* ?((?:\d+ [a-z]+(?:, )?)+) in [\d.]+s", printed, re.MULTILINE)
        sys.stdout.write(printed if ran.returncode else "")
        cells = {"Tests": " ".join(self.tests), "Result": counted[-1] if counted else f"exit code {ran.returncode}"}
        return ran.returncode == 0, {**dict(zip(("Python", *shown), versions, strict=True)), **cells}

    @property
    def _environment(self) -> Path:
        return FOLDER / self.name.replace(" ", "-")

    def _program(self, name: str) -> str:
        return f"/opt/venv/bin/{name}" if self.python is not None else str(self._environment / "bin" / name)

    def _constraints(self) -> list[str]:
        if self.versions == "lowest":
            compiled = [self._program("uv"), "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
            lowest = ["--resolution", "lowest-direct", "--extra", "all", "--constraint", str(_COMPANIONS)]
            direct = self._done([*compiled, *lowest, "pyproject.toml"]).splitlines()
            return [*direct, *_COMPANIONS.read_text().splitlines()]
        if self.versions == "pinned":
            instead = {re.split(r"[=<>~!]", pin)[0].lower() for pin in self.pins}
            pinned = (REPOSITORY / "constraints.txt").read_text().splitlines()
            return [*(line for line in pinned if line.partition("==")[0].lower() not in instead), *self.pins]
        return list(self.pins)

    def _done(self, command: Sequence[str]) -> str:
        ran = self._run(command)
        if ran.returncode:
            raise SystemExit(f"{self.name}: {' '.join(command)}\n{ran.stdout}")
        return ran.stdout

    def _run(self, command: Sequence[str], output: IO[str] | int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
        variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        if self.python is not None:
            return self.python.run(command, variables, output)
        environment = {
            name: value for name, value in os.environ.items() if name not in ("CI", "VIRTUAL_ENV", "PYTHONPATH")
        }
        environment["PATH"] = f"{self._environment / 'bin'}:{environment['PATH']}"
        return subprocess.run(
            command, cwd=REPOSITORY, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True
        )


_TRIXIE, _SID = PYTHONS
DJANGO_61: Final = ("Django>=6.1,<6.2",)
ROWS: Final = (
    Row("lowest", None, "all", "lowest", MAIN),
    Row("newest", None, "all", "newest", MAIN),
    Row("3.13", _TRIXIE, WEB, "pinned", MAIN, DJANGO_61),
    Row("3.14", _SID, WEB, "newest", MAIN, DJANGO_61),
    Row("3.13 ray", _TRIXIE, "all", "pinned", RAY, DJANGO_61),
)
IN_CI: Final = Row("3.13 quick", _TRIXIE, WEB, "pinned", QUICK, DJANGO_61)
"""What `.ci/run` has time for."""
