"""A Ray cluster of one node in processes of its own, which a test can kill and start again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import psutil

from tests.support.listening import free_port
from tests.support.waiting import wait_until


class RayHead:
    """The head node, at a port that stays the same.

    Attributes:
        address: The address of the cluster.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str] | None = None) -> None:
        """Keep the logs and sockets of the cluster in *directory*; its processes have *environment* too."""
        self._environment = {**os.environ, **(environment or {})}
        self._directory = directory
        self._port = free_port()
        self._starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start the cluster, and return once it can be joined."""
        self._starts += 1
        command = [
            str(Path(sys.executable).with_name("ray")),
            *("start", "--head", "--block"),
            f"--port={self._port}",
            *([f"--ray-client-server-port={free_port()}"] if find_spec("grpc") else []),
            f"--temp-dir={self._directory / 'head'}",
            "--node-ip-address=127.0.0.1",
            "--include-dashboard=false",
            "--disable-usage-stats",
            "--num-cpus=4",
        ]
        path = self._directory / f"head-{self._starts}.log"
        with path.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=self._environment)
        wait_until(lambda: "Ray runtime started" in path.read_text(), timeout_s=60)

    def kill(self) -> None:
        """Kill every process of the cluster with SIGKILL, replicas, proxies and the controller too."""
        if self._process is None:
            return
        # First all are stopped: otherwise the survivors could react to the death of the first ones.
        head = psutil.Process(self._process.pid)
        found = [head, *head.children(recursive=True)]
        for sent in (signal.SIGSTOP, signal.SIGKILL):
            for process in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(sent)
        psutil.wait_procs(found, timeout=30)
        self._process.wait()
        self._process = None


@contextlib.contextmanager
def ray_head(directory: Path, environment: Mapping[str, str] | None = None) -> Iterator[RayHead]:
    """Return a running cluster, which ends with the block; its processes have *environment* too."""
    head = RayHead(directory, environment)
    head.start()
    try:
        yield head
    finally:
        head.kill()
