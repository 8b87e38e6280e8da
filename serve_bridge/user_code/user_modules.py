"""A module of the user, imported by its name, with an error that says where its import failed."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import traceback
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Final

from serve_bridge.errors import ConfigError
from serve_bridge.printable import shown
from serve_bridge.user_code.search_path import installed_directories

_MODULE: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


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
        libraries = (os.path.dirname(os.path.dirname(__file__)), *installed_directories())
        own = [each for each in frames if not each.filename.startswith((*libraries, "<"))]
        where = f"{_brief(own[-1].filename)}, line {own[-1].lineno}" if own else ""
        said = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
    return f"module {name!r} cannot be imported: {where}{': ' if where else ''}{said}"


def _brief(filename: str) -> str:
    """Return *filename* as seen from the current directory, if it is below that."""
    with suppress(ValueError):
        return str(Path(filename).relative_to(Path.cwd()))
    return filename
