"""A Ray cluster of one node or more in processes of its own, which a test can kill and start again."""

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
        self._processes: list[subprocess.Popen[bytes]] = []
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
            '--resources={"head": 1}',
        ]
        path = self._directory / f"head-{self._starts}.log"
        self._run(command, path, {})

    def join(self, host: str, resource: str, environment: Mapping[str, str]) -> None:
        """Start another node at loopback address *host*, which alone has 1 of *resource*.

        Its processes have *environment* beside that of the head.
        """
        command = [
            str(Path(sys.executable).with_name("ray")),
            *("start", "--block", f"--address={self.address}", f"--node-ip-address={host}"),
            "--disable-usage-stats",
            "--num-cpus=4",
            f'--resources={{"{resource}": 1}}',
        ]
        self._run(command, self._directory / f"{host}.log", environment)

    def _run(self, command: list[str], path: Path, environment: Mapping[str, str]) -> None:
        with path.open("wb") as log:
            own = {**self._environment, **environment}
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=log, env=own))
        wait_until(lambda: "Ray runtime started" in path.read_text(), timeout_s=100)

    def kill(self) -> None:
        """Kill every process of the cluster with SIGKILL, replicas, proxies and the controller too."""
        # First all are stopped: otherwise the survivors could react to the death of the first ones.
        roots = [psutil.Process(process.pid) for process in self._processes]
        found = [each for root in roots for each in (root, *root.children(recursive=True))]
        for sent in (signal.SIGSTOP, signal.SIGKILL):
            for process in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(sent)
        psutil.wait_procs(found, timeout=30)
        for process in self._processes:
            process.wait()
        self._processes.clear()


@contextlib.contextmanager
def ray_head(directory: Path, environment: Mapping[str, str] | None = None) -> Iterator[RayHead]:
    """Return a running cluster, which ends with the block; its processes have *environment* too."""
    head = RayHead(directory, environment)
    try:
        head.start()
        yield head
    finally:
        head.kill()
