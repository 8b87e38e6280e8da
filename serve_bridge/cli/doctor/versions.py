"""Versions: of this process and the engine, and versions of other packages with known faults."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from serve_bridge.cli.doctor.findings import Finding, error, warning
from serve_bridge.instance.process_facts import ProcessFacts
from serve_bridge.process.extras import PRIVATELY_USED

CHECK: Final = "versions"

LOWEST: Final[Mapping[str, tuple[str, str]]] = {
    "ray": ("2.60", "serve_bridge is not tested with older versions"),
    "starlette": ("1.3.1", "older versions read forms without limits"),
    "Django": ("5.2", "the adapter is not tested with older versions"),
    "Flask": ("3.1", "the adapter is not tested with older versions"),
    "fastapi": ("0.135", "the adapter is not tested with older versions"),
}
"""Packages with the lowest supported version, and the reason. docs/versions.md has the same ones."""

FIXED: Final[Mapping[str, tuple[str, str, str]]] = {
    "Django": (
        "5.2.13",
        "its test client AsyncClient passes the names of `headers` with underscores, so a backend sees x_mine",
        "install Django {} or a newer one, or give keywords: get(path, **{{'x-mine': 'yes'}})",
    ),
    "starlette": (
        "1.7",
        "its test client warns of a deprecated name beside anyio 4.15 or a newer one",
        "install starlette {} or a newer one, or an anyio before 4.15",
    ),
}
"""Packages with a known fault in supported versions: the first version without it, the fault, and the remedy with a
place for this version. docs/versions.md has the same ones."""

SAME: Final = ("ray", "cloudpickle", "msgspec", "numpy")
"""Packages whose values travel between this process and the engine, as pickles or by Ray."""


def check_versions(here: ProcessFacts, engine: ProcessFacts | None) -> Iterator[Finding]:
    """Yield a finding for each version below its limit or with a known fault, and for each difference of both sides."""
    sides = [("this process", here)] if engine is None else [("this process", here), ("the engine", engine)]
    for side, facts in sides:
        yield from _too_old(side, facts.versions)
    yield from _faulty({side: facts.versions for side, facts in sides})
    if engine is None:
        return
    yield from _unusable_by_the_proxy(engine.versions)
    if _numbers(here.python)[:2] != _numbers(engine.python)[:2]:
        yield error(
            CHECK,
            f"this process has Python {here.python}, the engine has {engine.python}; pickled code of one version does "
            "not run on another",
            "install the same minor version of Python on both sides",
        )
    ours, theirs = (facts.versions.get("serve-bridge", "") for facts in (here, engine))
    if ours and theirs and ours != theirs:
        yield warning(
            CHECK,
            f"this process has serve_bridge {ours}, the engine has {theirs}",
            "finish the upgrade; a version works with the version before it only",
        )
    for package in SAME:
        ours, theirs = (facts.versions.get(package, "") for facts in (here, engine))
        if ours and theirs and ours != theirs:
            yield warning(
                CHECK,
                f"this process has {package} {ours}, the engine has {theirs}",
                f"install the same version of {package} on both sides; its values may not be readable by the other",
            )


def _too_old(side: str, versions: Mapping[str, str]) -> Iterator[Finding]:
    for package, (lowest, why) in LOWEST.items():
        installed = versions.get(package)
        if installed and _numbers(installed) < _numbers(lowest):
            yield error(CHECK, f"{side} has {package} {installed}: {why}", f"install {package} {lowest} or a newer one")


def _faulty(versions: Mapping[str, Mapping[str, str]]) -> Iterator[Finding]:
    """Yield a finding for each supported version with a known fault. *versions* are those of each side, by its name."""
    for package, (fixed, fault, remedy) in FIXED.items():
        lowest = LOWEST[package][0]
        found: dict[str, list[str]] = {}
        for side, installed in versions.items():
            if _numbers(lowest) <= _numbers(installed.get(package, "")) < _numbers(fixed):
                found.setdefault(installed[package], []).append(side)
        for version, sides in found.items():
            has = "have" if len(sides) > 1 else "has"
            yield warning(CHECK, f"{' and '.join(sides)} {has} {package} {version}: {fault}", remedy.format(fixed))


def _unusable_by_the_proxy(versions: Mapping[str, str]) -> Iterator[Finding]:
    for package, (lowest, untried) in PRIVATELY_USED.items():
        installed = versions.get(package)
        if installed and not _numbers(lowest) <= _numbers(installed) < _numbers(untried):
            yield warning(
                CHECK,
                f"the engine has {package} {installed}, with which a proxy does not start",
                f"install {package} from {lowest} and before {untried}, or start without a proxy",
            )


def _numbers(text: str) -> tuple[int, ...]:
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()
