"""Whose processes a contender's are, and the CPU time they used.

Rule 1: a process belongs to a stage if it descends from it or inherited its mark; a daemon that changed its
    parent keeps the mark, one that cleared its environment keeps its parent.
Rule 2: processes are ended by their id, and only those of a stage.
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
    """Return user and system CPU seconds used so far by each process that is still there."""
    used: dict[int, float] = {}
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.Error:
            continue
        used[pid] = times.user + times.system
    return used


def machine_cpu_seconds() -> float:
    """Return the CPU seconds all processes of the machine used since it started, interrupts left out."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def load_cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its ended children, the load generator among them."""
    usages = (resource.getrusage(resource.RUSAGE_CHILDREN), resource.getrusage(resource.RUSAGE_SELF))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def end(pids: Iterable[int], *, grace_s: float = 5.0) -> None:
    """End these processes: ask first, then kill what is left after *grace_s* seconds."""
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
