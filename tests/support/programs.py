"""Running a few lines of Python, or a command of Python's, in a process of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
LIMIT_S = 60


def start_program(program: str, *arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start *program* in a fresh interpreter; its standard output is a pipe."""
    command = [sys.executable, "-c", textwrap.dedent(program), *arguments]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True)


def run_program(
    program: str, *arguments: str, limit_s: float = LIMIT_S, environment: Mapping[str, str] | None = None
) -> str:
    """Run *program* in a fresh interpreter; return what it prints.

    Raises:
        AssertionError: It failed; its standard error is the test's own.
    """
    with start_program(program, *arguments, environment=environment) as process:
        try:
            printed, _ = process.communicate(timeout=limit_s)
        except BaseException:
            process.kill()
            raise
    assert process.returncode == 0, printed
    return printed


def start_module(
    *arguments: str, log: Path, directory: Path = ROOT, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start `python -m` with *arguments* in *directory*; what it prints goes to *log*."""
    path = os.pathsep.join(dict.fromkeys([str(directory), str(ROOT)]))
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": path, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def descendants(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the processes that *process* has started, and those that they have; none if it has ended."""
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def children_where(condition: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    """Return the processes below this one for which *condition* holds, without those that end while they are asked."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if condition(process):
                found.append(process)
    return found


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill *process* and what it has started, where they still run, and wait for their end."""
    started = descendants(process)
    process.kill()
    for child in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()
    psutil.wait_procs(started, timeout=LIMIT_S)
