"""Resident memory of a contender's processes: what each role keeps, and how much the largest grows meanwhile.

Rule 1: roles are told by the titles that the servers give their processes.
Rule 2: a peak is the kernel's own, set back before; nothing is missed between two looks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil

MIB: Final = 1 << 20
SETTLE_S: Final = 5.0
"""How long after the load memory is read: what a process gives back when it has nothing to do is not what it holds."""
_BRIDGE: Final = {"controller": "ray::ControllerActor", "proxy": "ray::ProxyActor", "replica": "ray::ReplicaActor"}
_RAY_SERVE: Final = {
    "controller": "ray::ServeController",
    "proxy": "ray::ProxyActor",
    "replica": "ray::ServeReplica:sites",
}
ROLES: Final[Mapping[str, Mapping[str, str]]] = {
    "serve-bridge": _BRIDGE,
    "bare": {"replica": r".*\buvicorn\b"},
    "ray-serve": _RAY_SERVE,
    # Its ProxyActor answers only when HAProxy cannot, and is not counted.
    "ray-serve-haproxy": _RAY_SERVE | {"proxy": r"ray::HAProxyManager|\S*\bhaproxy\b"},
}


def by_role(contender: str, pids: Iterable[int]) -> Mapping[str, float]:
    """Return the MiB of each role: the sum of what makes up a proxy, the largest of several replicas."""
    held: dict[str, list[float]] = {}
    for pid in pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            title = " ".join(process.cmdline())
            mib = process.memory_info().rss / MIB
            for role, pattern in ROLES.get(contender, {}).items():
                if re.match(pattern, title):
                    held.setdefault(role, []).append(mib)
    return {role: max(found) if role == "replica" else sum(found) for role, found in held.items()}


class Peak:
    """What `growth` fills when it is left.

    Attributes:
        mib: By how much the process grew that grew most.
    """

    mib = 0.0


@contextmanager
def growth(pids: Iterable[int]) -> Iterator[Peak]:
    """Watch how much the largest growing of these processes grows above what it has now."""
    before: dict[int, float] = {}
    for pid in pids:
        with suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # sets the peak back to what is resident now
            before[pid] = _peak_mib(pid)
    peak = Peak()
    yield peak
    for pid, mib in before.items():
        with suppress(OSError):  # it has ended
            peak.mib = max(peak.mib, _peak_mib(pid) - mib)


def _peak_mib(pid: int) -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0
