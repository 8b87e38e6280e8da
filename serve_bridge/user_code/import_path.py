"""Import paths, "package.module:Attr": how code is named that another process is to find by itself.

Rule 1: as text a path is checked anywhere; only `resolve` imports.
Rule 2: a process that was started elsewhere knows no project: beside the path it is told the directories to look in.
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
    return top != "__main__" and bool(directories_of(top))
