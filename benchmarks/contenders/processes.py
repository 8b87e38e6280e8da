"""The processes of a contender, and their CPU time.

Rule 1: a process belongs to a stage if it descends from the stage or inherited the stage's mark. A daemon with a new
    parent keeps the mark. A process with a cleared environment keeps its parent.
Rule 2: only processes of a stage are ended, each by its id.
"""

from __future__ import annotations

import resource
from collections.abc import Iterable, Mapping

import psutil

MARK = "SERVE_BRIDGE_BENCHMARK_STAGE"


def stage_pids(mark: str, root: int) -> frozenset[int]:
    """Return the ids of all processes of the stage with this *mark*, whose first process is *root*."""
    own: set[int] = set()
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                own.add(process.pid)
        except psutil.Error:
            continue
    try:
        parent = psutil.Process(root)
        own.update(child.pid for child in [parent, *parent.children(recursive=True)])
    except psutil.NoSuchProcess:
        pass
    return frozenset(own)


def cpu_seconds(pids: Iterable[int]) -> Mapping[int, float]:
    """Return the user and system CPU seconds so far of each process. Ended processes are left out."""
    used: dict[int, float] = {}
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.Error:
            continue
        used[pid] = times.user + times.system
    return used


def machine_cpu_seconds() -> float:
    """Return the CPU seconds of all processes since the machine started, without interrupts."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def load_cpu_seconds() -> float:
    """Return the CPU seconds of this process and its ended children, which include the load generator."""
    usages = (resource.getrusage(resource.RUSAGE_CHILDREN), resource.getrusage(resource.RUSAGE_SELF))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def end(pids: Iterable[int], *, grace_s: float = 5.0) -> None:
    """Terminate these processes, and kill the rest after *grace_s* seconds."""
    processes = []
    for pid in pids:
        try:
            process = psutil.Process(pid)
            process.terminate()
            processes.append(process)
        except psutil.NoSuchProcess:
            continue
    for process in psutil.wait_procs(processes, timeout=grace_s)[1]:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=grace_s)
