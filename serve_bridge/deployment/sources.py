"""The source of code by its content: all modules of its project which a replica may import.

Rule 1: a path or a time of a file is not content. Two checkouts of the same files have the same source.
Rule 2: a package counts as a whole, from its top. A module in no package counts with the modules beside it that it
        imports.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from pathlib import Path
from typing import Any, Final

import cloudpickle

from serve_bridge.user_code.fingerprint import digest

__all__ = ["Sources"]

_SUFFIXES: Final = (*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES)


class Sources:
    """The sources of one deployment; each package is read once."""

    def __init__(self) -> None:
        self._known: dict[str, bytes] = {}

    def of_code(self, code: Any) -> bytes:
        """Return a digest of the source of *code*; if it has no file, as in a notebook, a digest of what it does.

        Raises:
            OSError: A file cannot be read.
        """
        name = str(code.__module__)
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        if file is None or not Path(file).exists():
            if inspect.isclass(code) or inspect.isroutine(code):
                return digest(code).encode()
            return bytes(cloudpickle.dumps(code))  # an application is too much of a graph
        spec = getattr(module, "__spec__", None)
        if name == "__main__" and spec is not None:  # `python -m package.module`
            name = spec.name
        found = self.of_module(name)
        return found if found is not None else Path(file).read_bytes()

    def of_module(self, name: str) -> bytes | None:
        """Return a digest of the source of module *name*, with all of its top package; None if it is not found.

        Raises:
            OSError: A file cannot be read.
        """
        top = name.partition(".")[0]
        if top not in self._known:
            files = sorted(_files_of(top))
            if not files:
                return None
            content_digest = hashlib.sha256()
            for relative, path in files:
                content = path.read_bytes()
                content_digest.update(f"{relative}\0{len(content)}\0".encode() + content)
            self._known[top] = content_digest.digest()
        return self._known[top]


def _files_of(top: str) -> Iterator[tuple[str, Path]]:
    """Yield the files of the top-level module *top*, each with its name relative to the project."""
    directories, file = _place_of(top)
    if directories:
        for directory in directories:
            yield from _below(directory, f"{top}/")
    elif file is not None:
        yield from _beside(file)


def _place_of(top: str) -> tuple[list[Path], Path | None]:
    """Return the directories of the package *top*, or the file of the module *top*."""
    try:
        spec = getattr(sys.modules.get(top), "__spec__", None) or importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return [], None
    if spec.submodule_search_locations is not None:
        return [Path(place) for place in spec.submodule_search_locations if Path(place).is_dir()], None
    file = Path(spec.origin) if spec.has_location and spec.origin is not None else None
    return [], file if file is not None and file.exists() else None


def _below(directory: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    for place, names, files in os.walk(directory):
        names[:] = [name for name in names if name != "__pycache__" and not name.startswith(".")]
        for name in files:
            if name.endswith(_SUFFIXES):
                path = Path(place, name)
                yield prefix + path.relative_to(directory).as_posix(), path


def _beside(file: Path) -> Iterator[tuple[str, Path]]:
    """Yield *file*, and what it imports by `import` statements from its own directory."""
    found = {file.name: file}
    waiting = [file]
    while waiting:
        for name in _imports_of(waiting.pop()):
            module, package = file.with_name(f"{name}.py"), file.with_name(name)
            if package.is_dir():
                found.update(_below(package, f"{name}/"))
            elif module.name not in found and module.is_file():
                found[module.name] = module
                waiting.append(module)
    yield from found.items()


def _imports_of(file: Path) -> Iterable[str]:
    """Return the top-level names in the imports of *file*."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return []
    names: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update((alias.name.partition(".")[0], None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module is not None:
            names[node.module.partition(".")[0]] = None
    return names
