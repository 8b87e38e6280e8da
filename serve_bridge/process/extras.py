"""The check of the extras of serve_bridge: are their packages installed?

Rule 1: an extra has one line here and one in pyproject.toml. A test compares the lines.
Rule 2: one error names all missing packages and the command that installs them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Final

__all__ = ["EXTRAS", "PRIVATELY_USED", "require", "require_proxy"]

EXTRAS: Final[Mapping[str, tuple[str, ...]]] = {
    "ray": ("ray",),
    "proxy": ("uvicorn", "websockets"),
    "cli": ("click",),
}
"""The packages of each extra. The packages have the names of their modules."""

PRIVATELY_USED: Final[Mapping[str, tuple[str, str]]] = {"uvicorn": ("0.54", "0.55"), "websockets": ("17", "18")}
"""Packages whose private parts the proxy uses, each with its lowest tested version and its first untested version."""


def require(purpose: str, extras: Iterable[str], *, also: Iterable[str] = (), way_out: str = "") -> None:
    """Check that the packages for *purpose* are installed.

    Args:
        purpose: The subject of the error, such as "the proxy".
        extras: Names of the required extras.
        also: Extras for the next step, perhaps in another process. They cause no error, but an error names them too.
        way_out: Another remedy beside the installation, for the error.

    Raises:
        ImportError: A package is missing or has an untested version. The message has the command that installs it.
    """
    faults = _faults(extras)
    if faults:
        faults |= _faults(also)
        told = "; ".join(fault for found in faults.values() for fault in found)
        raise ImportError(f"{purpose} cannot run: {told}. pip install 'serve-bridge[{','.join(faults)}]'{way_out}")


def require_proxy() -> None:
    """Check that this process can run a proxy. Call it before the import of the proxy's server.

    Raises:
        ImportError: As `require`.
    """
    require("the HTTP proxy", ["proxy"], way_out=", or start without a proxy: http_options={'location': None}")


def _faults(extras: Iterable[str]) -> dict[str, list[str]]:
    """Return the faults of the packages of each extra. Extras without a fault are left out."""
    found = {extra: [fault for package in EXTRAS[extra] if (fault := _fault(package))] for extra in extras}
    return {extra: faults for extra, faults in found.items() if faults}


def _fault(package: str) -> str | None:
    """Return the fault of *package*; None if it is installed in a tested version."""
    if not _is_there(package):
        return f"{package} is not installed"
    if package not in PRIVATELY_USED:
        return None
    try:
        installed = version(package)
    except PackageNotFoundError:
        return f"{package} has no metadata with its version"
    lowest, first_untried = PRIVATELY_USED[package]
    if _numbers(lowest) <= _numbers(installed) < _numbers(first_untried):
        return None
    return f"{package} {installed} is installed, and only versions from {lowest} and before {first_untried} were tried"


def _is_there(package: str) -> bool:
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None  # without an origin, it is only a folder of this name


def _numbers(text: str) -> tuple[int, ...]:
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()
