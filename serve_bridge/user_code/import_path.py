"""Import paths, "package.module:Attr": names under which another process finds code.

Rule 1: only `resolve` imports. The other functions treat a path as text, or look at modules already imported.
Rule 2: a process started in another directory does not know the project. So it gets the directories for its imports,
    too: see `search_path`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
import sys
from typing import Any, Final

from serve_bridge.errors import ConfigError
from serve_bridge.printable import shown
from serve_bridge.user_code.search_path import directories_of

_FORM: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def check_import_path(path: str) -> str:
    """Return *path* if it has the form of an import path. Nothing is imported.

    Raises:
        ConfigError: *path* has another form.
    """
    if not _FORM.fullmatch(path):
        raise ConfigError(f"an import path reads 'package.module:Attr', got {shown(path)}")
    return path


def resolve(path: str) -> Any:
    """Import the module of *path* and return its attribute.

    Raises:
        ImportError: The module is missing, or its import fails.
        AttributeError: The module has no such attribute.
    """
    module, _, attribute = path.partition(":")
    return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))


def import_path_of(target: Any) -> str | None:
    """Return the path by which another process finds the class or function *target*; None if there is no path.

    There is no path to code in a function, in `__main__` or in a module without a file to import. There is none either
    if another object of the module has taken the name.
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
    """Return a path by which another process finds *target*, this very object; None if no module has a name for it.

    The search through all imported modules takes a few milliseconds.
    """
    own = str(getattr(target, "__module__", ""))  # for an instance, this is the module of its class
    for name in dict.fromkeys([own, *sys.modules]):
        attributes = getattr(sys.modules.get(name), "__dict__", {})
        for attribute, value in list(attributes.items()):
            if value is target and _is_found(name) and _FORM.fullmatch(path := f"{name}:{attribute}"):
                return path
    return None


def _is_found(module: str) -> bool:
    top = module.partition(".")[0]
    return top != "__main__" and bool(directories_of(top))
