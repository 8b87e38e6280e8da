"""The extras of serve_bridge that a process needs: which packages are missing, and what to install.

Rule 1: an extra has one line here and one in pyproject.toml; a test holds them together.
Rule 2: one error names everything that is missing.
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
"""The packages of an extra, which are called as their modules are."""

PRIVATELY_USED: Final[Mapping[str, tuple[str, str]]] = {"uvicorn": ("0.54", "0.55"), "websockets": ("17", "18")}
"""Packages of which the proxy uses private parts: the lowest version that was tried, and the first one that was not."""


def require(purpose: str, extras: Iterable[str], *, also: Iterable[str] = (), way_out: str = "") -> None:
    """Check that what *purpose* needs is installed.

    Args:
        purpose: The subject of the error, such as "the proxy".
        extras: Names of extras.
        also: Extras that are needed next, perhaps in another process. The error names them too, but they cause none.
        way_out: What the error says beside the installation.

    Raises:
        ImportError: A package is missing, or has a version that was not tried; the message says what to install.
    """
    faults = _faults(extras)
    if faults:
        faults |= _faults(also)
        told = "; ".join(fault for found in faults.values() for fault in found)
        raise ImportError(f"{purpose} cannot run: {told}. pip install 'serve-bridge[{','.join(faults)}]'{way_out}")


def require_proxy() -> None:
    """Check that this process can run a proxy; to be called before anything of the proxy's server is imported.

    Raises:
        ImportError: As `require`.
    """
    require("the HTTP proxy", ["proxy"], way_out=", or start without a proxy: http_options={'location': None}")


def _faults(extras: Iterable[str]) -> dict[str, list[str]]:
    """Return what is wrong with the packages of each extra; an extra without a fault is left out."""
    found = {extra: [fault for package in EXTRAS[extra] if (fault := _fault(package))] for extra in extras}
    return {extra: faults for extra, faults in found.items() if faults}


def _fault(package: str) -> str | None:
    """Return what is wrong with *package*, if anything is."""
    if not _is_there(package):
        return f"{package} is not installed"
    if package not in PRIVATELY_USED:
        return None
    try:
        installed = version(package)
    except PackageNotFoundError:  # without its metadata nothing is known of it
        return f"{package} has no metadata that tell its version"
    lowest, first_untried = PRIVATELY_USED[package]
    if _numbers(lowest) <= _numbers(installed) < _numbers(first_untried):
        return None
    return f"{package} {installed} is installed, and only versions from {lowest} and before {first_untried} were tried"


def _is_there(package: str) -> bool:
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None  # without an origin: a folder that is called so


def _numbers(text: str) -> tuple[int, ...]:
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()
