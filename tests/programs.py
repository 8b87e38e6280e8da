"""Running a few lines of Python in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT_S = 60


def start_program(program: str, *arguments: str) -> subprocess.Popen[str]:
    """Start *program* in a fresh interpreter; its standard output is a pipe."""
    command = [sys.executable, "-c", textwrap.dedent(program), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def run_program(program: str, *arguments: str) -> str:
    """Run *program* in a fresh interpreter; return what it prints.

    Raises:
        AssertionError: It failed; its standard error is the test's own.
    """
    with start_program(program, *arguments) as process:
        try:
            printed, _ = process.communicate(timeout=LIMIT_S)
        except BaseException:
            process.kill()
            raise
    assert process.returncode == 0, printed
    return printed
