"""The directories in which another process finds the modules of this process."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import itertools
import os
import site
import sys
import sysconfig
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Final

_OURSELVES: Final = __name__.partition(".")[0]


def search_path_of(*modules: str) -> tuple[str, ...]:
    """Return the directories in which imports of *modules* begin.

    Modules found by every process of this environment add no directory: installed packages, the standard library and
    this package itself. The module `__main__` adds all directories in which this process looks before the installed
    packages, because its code may import any module there.
    """
    found: dict[str, None] = {}
    for top in dict.fromkeys(module.partition(".")[0] for module in modules):
        if top and top != _OURSELVES:
            found.update(dict.fromkeys(map(str, _main_directories() if top == "__main__" else directories_of(top))))
    installed = installed_directories()
    return tuple(directory for directory in found if directory not in installed)


def extend_search_path(directories: Iterable[str]) -> None:
    """Let imports of this process look in *directories* first. Directories already known keep their place."""
    known = {*sys.path, *(os.getcwd() for entry in sys.path if not entry)}
    new = [directory for directory in directories if directory not in known]
    sys.path[:0] = new
    if new:
        importlib.invalidate_caches()


def _main_directories() -> list[Path]:
    """Return the directories for imports of the running script, `python -m package.module` or notebook."""
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    own: list[Path] = []
    if spec is not None and spec.origin is not None:
        own = [Path(spec.origin).absolute().parents[spec.name.count(".")]]  # the parent of the outermost package
    elif file is not None:
        own = [Path(file).absolute().parent]
    packages, library = _packages(), _library()
    before = itertools.takewhile(lambda entry: entry not in packages, sys.path)
    # "" is the current directory. In a notebook it comes after the standard library.
    entries = [*before, *(entry for entry in sys.path if not entry)]
    places = [Path(os.getcwd(), entry) for entry in entries]
    return [*own, *(place for place in places if place.exists() and library not in (place, *place.parents))]


def directories_of(top: str) -> list[Path]:
    """Return the directories in which an import finds the top-level module *top*."""
    spec = _spec_of(top)
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        places = [Path(location).absolute() for location in spec.submodule_search_locations]
    else:
        places = [Path(spec.origin).absolute()] if spec.has_location and spec.origin is not None else []
    # During development a package may lie in a directory of another name. An import does not find it there.
    return [place.parent for place in places if place.name.partition(".")[0] == top]


def _spec_of(top: str) -> ModuleSpec | None:
    if top in sys.modules:
        return getattr(sys.modules[top], "__spec__", None)
    return importlib.util.find_spec(top)


@functools.cache
def installed_directories() -> frozenset[str]:
    """Return the directories of the standard library and of installed packages."""
    return frozenset([sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), *_packages()])


@functools.cache
def _packages() -> frozenset[str]:
    """Return the directories of installed packages."""
    own = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    return frozenset([*own, *site.getsitepackages(), site.getusersitepackages()])


@functools.cache
def _library() -> Path:
    """Return the directory of the standard library."""
    return Path(sysconfig.get_path("stdlib"))
