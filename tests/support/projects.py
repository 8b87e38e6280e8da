"""Small projects of a user's, written to a directory: modules that declare backends."""

from __future__ import annotations

import importlib
import os
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType


class Project:
    """A directory of modules that this process can import while it lasts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._written = 0

    def write(self, module: str, source: str) -> None:
        """Write *module*, such as "shop.backends", and the packages around it."""
        *packages, name = module.split(".")
        directory = self.directory
        for package in packages:
            directory = directory / package
            directory.mkdir(exist_ok=True)
            (directory / "__init__.py").touch()
        file = directory / f"{name}.py"
        file.write_text(textwrap.dedent(source))
        # Replicas may leave compiled files, which count for a source of the same size and second.
        self._written += 1
        moment = int(time.time()) + self._written
        os.utime(file, (moment, moment))
        self.forget()

    def load(self, module: str) -> ModuleType:
        """Import *module* as it is on disk now."""
        return importlib.import_module(module)

    def forget(self) -> None:
        """Let the next import read the files again."""
        importlib.invalidate_caches()
        for name in [name for name, module in sys.modules.items() if self._has(module)]:
            del sys.modules[name]

    def _has(self, module: ModuleType) -> bool:
        return (getattr(module, "__file__", None) or "").startswith(str(self.directory))


@contextmanager
def project_in(directory: Path) -> Iterator[Project]:
    """A project in *directory*, which is empty."""
    project = Project(directory)
    path, written = list(sys.path), sys.dont_write_bytecode
    sys.path.insert(0, str(directory))
    sys.dont_write_bytecode = True  # a file that changes twice a second would be taken from there
    yield project
    sys.path[:], sys.dont_write_bytecode = path, written
    project.forget()
