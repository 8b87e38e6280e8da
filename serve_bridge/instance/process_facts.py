"""The facts about a process and its machine by which `serve-bridge doctor` compares both sides."""

from __future__ import annotations

import platform
import resource
import socket
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import msgspec

PACKAGES: Final = (
    *("ray", "cloudpickle", "msgspec", "numpy", "starlette", "uvicorn", "websockets"),
    *("Django", "asgiref", "Flask", "fastapi", "gunicorn"),
)
"""The packages whose versions matter beside that of serve_bridge, by their names in the package index."""

_MEMORY_LIMITS: Final = ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Files with the memory limit of a container, for both versions of cgroups."""


@dataclass(frozen=True, kw_only=True)
class ProcessFacts:
    """The facts about one process. Each has a default, for answers of earlier versions.

    Attributes:
        time: Its clock, in seconds since the epoch.
        host: Name of its machine.
        python: Its version of Python.
        versions: The version of serve_bridge that this process has loaded, and those of the installed `PACKAGES`.
        memory_bytes: Memory of the machine, or the limit of the container if that is lower; None: it is not known.
    """

    time: float = 0.0
    host: str = ""
    python: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class EngineFacts(ProcessFacts):
    """The facts about the process of the controller.

    Attributes:
        token_mode: "token" if Ray asks each process for the token of the cluster, "disabled" if it does not; "": the
            runtime is not Ray.
        replicas_bytes: Memory of the replicas on the controller's machine; None: it is not known.
    """

    token_mode: str = ""
    replicas_bytes: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the same as plain values, for the wire."""
        facts: dict[str, Any] = msgspec.to_builtins(self)
        return facts

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> EngineFacts:
        """Return the facts in the answer of a controller. Unknown ones of a later version are left out."""
        return msgspec.convert(facts, cls)


def own_facts() -> dict[str, Any]:
    """Return the fields of `ProcessFacts` for this process. The function reads files."""
    return {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "versions": {"serve-bridge": _own_version()} | {each: found for each in PACKAGES if (found := _version(each))},
        "memory_bytes": memory_bytes(Path("/")),
        "time": time.time(),  # the last one, since the files before it take time
    }


def memory_bytes(root: Path) -> int | None:
    """Return the memory of the machine whose files are below *root*, or the lower limit of its container."""
    found = []
    try:
        line = next(line for line in (root / "proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
        found.append(int(line.split()[1]) * 1024)
    except (OSError, StopIteration):
        pass
    for limit in _MEMORY_LIMITS:
        try:
            text = (root / limit).read_text().strip()
        except OSError:
            continue
        if text.isdecimal():  # "max" is no limit
            found.append(int(text))
    return min(found, default=None)


def resident_bytes(directory: Path) -> int:
    """Return the own memory of the process with this directory below /proc; 0 if the process has ended.

    Pages of files and other shared pages do not count.
    """
    try:
        _, resident, shared, *_ = map(int, (directory / "statm").read_text().split())
    except (OSError, ValueError):
        return 0
    return (resident - shared) * resource.getpagesize()


def _own_version() -> str:
    # Of the loaded package, since another version may be installed. An import of it here would be one up the layers.
    return str(sys.modules["serve_bridge"].__version__)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
