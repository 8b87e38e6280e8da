"""A copy of the small Django project, and its command line in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.programs import ROOT

LIMIT_S = 110
SOURCE = Path(__file__).parent / "django_project"


class Project:
    """One copy.

    Attributes:
        directory: Where it is.
    """

    def __init__(self, directory: Path, database: Mapping[str, Any] | None = None) -> None:
        """Copy it to *directory*; *database* is an entry of DATABASES, in place of SQLite."""
        self.directory = directory
        shutil.copytree(SOURCE, directory, ignore=shutil.ignore_patterns("__pycache__", "*.sqlite3"))
        if database is not None:
            settings = f'"""Another database."""\n\nDATABASES = {{"default": {dict(database)!r}}}\n'
            (directory / "project" / "database.py").write_text(settings)

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a Python command in it, and return what became of it."""
        return subprocess.run(
            [sys.executable, "-W", "error", *command],
            cwd=self.directory,
            env=self.environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
        )

    def manage(self, *words: str, **environment: str) -> str:
        """Run a command of `manage.py`; return what it prints.

        Raises:
            AssertionError: It failed.
        """
        done = self.run("manage.py", *words, **environment)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of its processes."""
        return {**os.environ, "PYTHONPATH": str(ROOT), "DJANGO_SETTINGS_MODULE": "project.settings", **more}
