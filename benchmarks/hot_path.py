"""CPU time of proxy and replica for a no-op HTTP request, by function: `python -m benchmarks.hot_path`.

Rule 1: the microseconds come from the kernel's CPU clock of the process, under a load without a profiler. The profile
    of a second load only tells how the microseconds are divided among functions.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import psutil

from benchmarks.contenders.entries import ENTRIES
from benchmarks.contenders.processes import cpu_seconds
from benchmarks.contenders.stage import Stage
from benchmarks.load.web_load import load, wait_until_answering
from benchmarks.rows.memory import ROLES

CONTENDER: Final = "serve-bridge"
ROLES_SHOWN: Final = ("proxy", "replica")
SAMPLES_PER_S: Final = 400
SHORTEST_SHARE: Final = 0.015


def main() -> None:
    """Print the CPU time of proxy and replica by function, for each number of connections."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hot_path", description=__doc__)
    parser.add_argument("--connections", type=int, nargs="*", default=[64, 1])
    parser.add_argument("--seconds", type=float, default=5.0)
    asked = parser.parse_args()
    stage = Stage(ENTRIES[CONTENDER])
    try:
        url = str(stage.url)
        wait_until_answering(url)
        roles = _busiest(stage, url)
        for connections in asked.connections:
            _show(url, connections, asked.seconds, roles)
    finally:
        stage.stop()


def _busiest(stage: Stage, url: str) -> Mapping[str, int]:
    """Return the process of each role that serves *url*. The instance has other replicas as well."""
    titles = {pid: " ".join(psutil.Process(pid).cmdline()) for pid in stage.serving_pids()}
    before = cpu_seconds(titles)
    load(url, 64, 2.0)
    spent = {pid: seconds - before[pid] for pid, seconds in cpu_seconds(before).items()}
    return {
        role: max((pid for pid in spent if re.match(ROLES[CONTENDER][role], titles[pid])), key=spent.__getitem__)
        for role in ROLES_SHOWN
    }


def _show(url: str, connections: int, seconds: float, roles: Mapping[str, int]) -> None:
    before = cpu_seconds(roles.values())
    timing = load(url, connections, seconds)
    after = cpu_seconds(roles.values())
    profiles = _profiles(url, connections, seconds, roles)
    print(f"### {connections} connection{'s' * (connections > 1)}: {timing.requests / seconds:,.0f} requests/s")
    for role, pid in roles.items():
        spent_us = (after[pid] - before[pid]) / timing.requests * 1e6
        print(f"\n{role}: {spent_us:.1f} µs CPU a request\n")
        samples = profiles[role]
        total = sum(samples.values())
        for where, count in samples.most_common():
            if count >= total * SHORTEST_SHARE:
                print(f"  {count / total:5.1%}  {spent_us * count / total:5.1f} µs  {where}")
    print()


def _profiles(url: str, connections: int, seconds: float, roles: Mapping[str, int]) -> Mapping[str, Counter[str]]:
    """Return the number of samples by innermost function, for each role."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, ExitStack() as recording:
        files = {role: Path(directory) / role for role in roles}
        for role, pid in roles.items():
            command = _py_spy(pid, seconds, files[role])
            recording.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        load(url, connections, seconds + 1.0)
        recording.close()
        return {role: _samples(file.read_text()) for role, file in files.items()}


def _py_spy(pid: int, seconds: float, file: Path) -> list[str]:
    options = ["--nonblocking", "--format", "raw", "--rate", str(SAMPLES_PER_S), "--duration", str(round(seconds))]
    return [str(Path(sys.executable).with_name("py-spy")), "record", *options, "--output", str(file), "--pid", str(pid)]


def _samples(raw: str) -> Counter[str]:
    """Return the samples of a raw profile by innermost function, for the serving thread only."""
    samples: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        if "serve_bridge" in stack:
            samples[re.sub(r":\d+\)$", ")", stack.rpartition(";")[2])] += int(count)
    return samples


if __name__ == "__main__":
    main()
