"""Resident memory of a contender's processes: the memory of each role, and the largest growth during a load.

Rule 1: the titles of processes tell their roles. The servers set these titles.
Rule 2: a peak is the kernel's own figure, reset before the load. Sampling would miss a peak between two samples.
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
"""Seconds between the load and the reading. An idle process frees memory in this time, which should not count."""
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
    # The ProxyActor answers only when HAProxy cannot, so its memory is not counted.
    "ray-serve-haproxy": _RAY_SERVE | {"proxy": r"ray::HAProxyManager|\S*\bhaproxy\b"},
}


def by_role(contender: str, pids: Iterable[int]) -> Mapping[str, float]:
    """Return the MiB of each role: the sum over the processes of a proxy, and the largest of several replicas."""
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
    """The result of `growth`, set at the end of its block.

    Attributes:
        mib: Largest growth of a process, in MiB.
    """

    mib = 0.0


@contextmanager
def growth(pids: Iterable[int]) -> Iterator[Peak]:
    """Measure the largest growth of one of these processes inside the block."""
    before: dict[int, float] = {}
    for pid in pids:
        with suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # resets the peak to the present resident memory
            before[pid] = _peak_mib(pid)
    peak = Peak()
    yield peak
    for pid, mib in before.items():
        with suppress(OSError):  # the process has ended
            peak.mib = max(peak.mib, _peak_mib(pid) - mib)


def _peak_mib(pid: int) -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0
