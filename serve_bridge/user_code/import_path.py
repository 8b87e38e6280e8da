"""Import paths, "package.module:Attr": how code is named that another process is to find by itself.

Rule 1: as text a path is checked anywhere; only `resolve` imports.
Rule 2: a process that was started elsewhere knows no project: beside the path it is told the directories to look in.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import itertools
import os
import re
import site
import sys
import sysconfig
import traceback
from collections.abc import Iterable
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from serve_bridge.errors import ConfigError, shown

_FORM: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_MODULE: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_OURSELVES: Final = __name__.partition(".")[0]


def check_import_path(path: str) -> str:
    """Return *path* if it reads as an import path; nothing is imported.

    Raises:
        ConfigError: It does not.
    """
    if not _FORM.fullmatch(path):
        raise ConfigError(f"an import path reads 'package.module:Attr', got {shown(path)}")
    return path


def resolve(path: str) -> Any:
    """Return what *path* names.

    Raises:
        ImportError: Its module is missing or fails.
        AttributeError: It has no such attribute.
    """
    module, _, attribute = path.partition(":")
    return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))


def import_named(name: str) -> ModuleType:
    """Return the module that a user has named, such as "shop.backends".

    Raises:
        ConfigError: *name* is not the name of a module that is found here.
        ImportError: The module fails while it is imported; the message says in which file and line.
    """
    if "/" in name or "\\" in name or name.endswith(".py"):
        raise ConfigError(
            f"{shown(name)} is the path of a file, and a module is named as in an import: {_dotted(name)}"
        )
    if not _MODULE.fullmatch(name):
        raise ConfigError(f"{shown(name)} is not the name of a module, such as 'shop.backends'")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(f"no module {name!r} can be imported here: {error}") from None
        raise ImportError(_failure_of(name, error), name=name) from error
    except Exception as error:  # of the user's module, which may raise anything
        raise ImportError(_failure_of(name, error), name=name) from error


def _dotted(path: str) -> str:
    """Return the name of the module in the file *path*, as an import in the current directory would find it."""
    with suppress(ValueError):  # it is not below the current directory
        path = str(Path(os.path.normpath(os.path.abspath(path))).relative_to(Path.cwd()))
    found = Path(path)
    parts = found.parts if not found.is_absolute() else (found.name,)
    names = [*parts[:-1], parts[-1].removesuffix(".py")] if parts else []
    return "use " + ".".join(names[:-1] if len(names) > 1 and names[-1] == "__init__" else names)


def _failure_of(name: str, error: Exception) -> str:
    """Return the sentence that says where the import of module *name* failed: the last line outside of libraries."""
    if isinstance(error, SyntaxError):
        where, said = f"{_brief(error.filename or '')}, line {error.lineno}", error.msg
    else:
        frames = traceback.extract_tb(error.__traceback__)
        # A check of ours that refuses a declaration is found in the line that declares, not in the check.
        libraries = (os.path.dirname(os.path.dirname(__file__)), *_installed())
        own = [each for each in frames if not each.filename.startswith((*libraries, "<"))]
        where = f"{_brief(own[-1].filename)}, line {own[-1].lineno}" if own else ""
        said = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
    return f"module {name!r} cannot be imported: {where}{': ' if where else ''}{said}"


def _brief(filename: str) -> str:
    """Return *filename* as seen from the current directory, if it is below that."""
    with suppress(ValueError):
        return str(Path(filename).relative_to(Path.cwd()))
    return filename


def import_path_of(target: Any) -> str | None:
    """Return the path under which another process finds the class or function *target*; None if it has none.

    It has none if it is local to a function, in `__main__`, in a module that no import finds, or hidden by another
    object of its name.
    """
    module, name = target.__module__, target.__qualname__
    if "<" in name or not _is_found(module):
        return None
    try:
        found = functools.reduce(getattr, name.split("."), sys.modules.get(module))
    except AttributeError:
        return None
    return f"{module}:{name}" if found is target else None


def path_of_object(target: object) -> str | None:
    """Return a path under which another process finds the very object *target*; None if no module has it by a name.

    It looks through what is imported, which takes a few milliseconds.
    """
    own = str(getattr(target, "__module__", ""))  # of a function; of an instance it is that of its class
    for name in dict.fromkeys([own, *sys.modules]):
        attributes = getattr(sys.modules.get(name), "__dict__", {})
        for attribute, value in list(attributes.items()):
            if value is target and _is_found(name) and _FORM.fullmatch(path := f"{name}:{attribute}"):
                return path
    return None


def _is_found(module: str) -> bool:
    top = module.partition(".")[0]
    return top != "__main__" and bool(_directories(top))


def search_path_of(*modules: str) -> tuple[str, ...]:
    """Return the directories in which imports of *modules* begin.

    Nothing is returned for what every process of this environment finds: installed packages, the standard library,
    this package itself. Code of `__main__` may import whatever is beside it, so for `__main__` the directories are
    those in which this process looks before the installed packages.
    """
    found: dict[str, None] = {}
    for top in dict.fromkeys(module.partition(".")[0] for module in modules):
        if top and top != _OURSELVES:
            found.update(dict.fromkeys(map(str, _main_directories() if top == "__main__" else _directories(top))))
    installed = _installed()
    return tuple(directory for directory in found if directory not in installed)


def extend_search_path(directories: Iterable[str]) -> None:
    """Let imports of this process look in *directories* first; those that they know already stay where they are."""
    known = {*sys.path, *(os.getcwd() for entry in sys.path if not entry)}
    new = [directory for directory in directories if directory not in known]
    sys.path[:0] = new
    if new:
        importlib.invalidate_caches()


def _main_directories() -> list[Path]:
    """Return where imports of the program that runs begin: a script, `python -m package.module`, a notebook."""
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    own: list[Path] = []
    if spec is not None and spec.origin is not None:
        own = [Path(spec.origin).absolute().parents[spec.name.count(".")]]  # above its outermost package
    elif file is not None:
        own = [Path(file).absolute().parent]
    packages, library = _packages(), _library()
    before = itertools.takewhile(lambda entry: entry not in packages, sys.path)
    # The current directory is "", which a notebook has behind the standard library.
    entries = [*before, *(entry for entry in sys.path if not entry)]
    places = [Path(os.getcwd(), entry) for entry in entries]
    return [*own, *(place for place in places if place.exists() and library not in (place, *place.parents))]


def _directories(top: str) -> list[Path]:
    """Return the directories in which the top-level module *top* is found under its name."""
    spec = _spec_of(top)
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        places = [Path(location).absolute() for location in spec.submodule_search_locations]
    else:
        places = [Path(spec.origin).absolute()] if spec.has_location and spec.origin is not None else []
    # It may lie under another name where it is developed, or was loaded from; an import would not find it there.
    return [place.parent for place in places if place.name.partition(".")[0] == top]


def _spec_of(top: str) -> ModuleSpec | None:
    if top in sys.modules:
        return getattr(sys.modules[top], "__spec__", None)
    return importlib.util.find_spec(top)


@functools.cache
def _installed() -> frozenset[str]:
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
