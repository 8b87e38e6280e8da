"""Modules of the user, imported by name. The error of a failed import names the file and the line."""

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
    """Return the module with the name given by a user, such as "shop.backends".

    Raises:
        ConfigError: *name* is not the name of a module found here.
        ImportError: The import of the module failed; the message names the file and the line.
    """
    if "/" in name or "\\" in name or name.endswith(".py"):
        raise ConfigError(
            f"{shown(name)} is the path of a file, but a module is named as in an import: {_dotted(name)}"
        )
    if not _MODULE.fullmatch(name):
        raise ConfigError(f"{shown(name)} is not the name of a module, such as 'shop.backends'")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(f"no module {name!r} can be imported here: {error}") from None
        raise ImportError(_failure_of(name, error), name=name) from error
    except Exception as error:  # any exception of the user's module
        raise ImportError(_failure_of(name, error), name=name) from error


def _dotted(path: str) -> str:
    """Return the name by which an import in the current directory finds the module in the file *path*."""
    with suppress(ValueError):  # the file is not below the current directory
        path = str(Path(os.path.normpath(os.path.abspath(path))).relative_to(Path.cwd()))
    found = Path(path)
    parts = found.parts if not found.is_absolute() else (found.name,)
    names = [*parts[:-1], parts[-1].removesuffix(".py")] if parts else []
    return "use " + ".".join(names[:-1] if len(names) > 1 and names[-1] == "__init__" else names)


def _failure_of(name: str, error: Exception) -> str:
    """Return the message for the failed import of module *name*, with the last line of the traceback in user code."""
    if isinstance(error, SyntaxError):
        where, said = f"{_brief(error.filename or '')}, line {error.lineno}", error.msg
    else:
        frames = traceback.extract_tb(error.__traceback__)
        # If a check of this package refused a declaration, the user looks for the declaration, not for the check.
        libraries = (os.path.dirname(os.path.dirname(__file__)), *installed_directories())
        own = [each for each in frames if not each.filename.startswith((*libraries, "<"))]
        where = f"{_brief(own[-1].filename)}, line {own[-1].lineno}" if own else ""
        said = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
    return f"module {name!r} cannot be imported: {where}{': ' if where else ''}{said}"


def _brief(filename: str) -> str:
    """Return *filename* relative to the current directory, if it is below that directory."""
    with suppress(ValueError):
        return str(Path(filename).relative_to(Path.cwd()))
    return filename
