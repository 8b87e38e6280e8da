"""The contenders that know no Ray: Mosec and LitServe over HTTP, and Celery with Redis for calls from Python.

Rule 1: one worker process each, as every contender has one replica, in the mode that is fastest for it.
Rule 2: all listen on loopback, at ports of their own, and are children of the stage, which ends them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.calls import Calls
from benchmarks.contenders import Caller, free_port


class Mosec:
    """A Rust server in front of one Python process, which gets and gives bytes: no JSON on the way."""

    calls: Calls | None = None
    caller: Caller | None = None

    def __init__(self) -> None:
        self.url: str | None = None
        self._server: subprocess.Popen[bytes] | None = None

    def start(self, directory: Path) -> None:
        """Start the server; it answers a moment later."""
        port = free_port()
        self._server = subprocess.Popen(self._command(port), cwd=directory, start_new_session=True)
        self.url = f"http://127.0.0.1:{port}/inference"

    def _command(self, port: int) -> list[str]:
        options = ["--address", "127.0.0.1", "--port", str(port), "--path", "mosec", "--log-level", "warning"]
        return [sys.executable, "-m", "benchmarks.mosec_app", *options]

    def stop(self) -> None:
        """End the server and wait for it."""
        if self._server is not None:
            self._server.terminate()
            self._server.wait(10)


class LitServe(Mosec):
    """FastAPI in front of one worker process."""

    def _command(self, port: int) -> list[str]:
        return [sys.executable, "-m", "benchmarks.litserve_app", str(port)]


class Celery:
    """`noop.delay().get(interval=0.001)` through Redis to one worker process, which keeps nothing on disk."""

    url: str | None = None
    caller: Caller | None = None

    def __init__(self) -> None:
        self.calls: Calls | None = None
        self._servers: list[subprocess.Popen[bytes]] = []

    def start(self, directory: Path) -> None:
        """Start Redis and the worker, and wait until it answers."""
        port = free_port()
        os.environ["CELERY_BENCHMARK_REDIS"] = f"redis://127.0.0.1:{port}/0"
        redis = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
        app = [sys.executable, "-m", "celery", "--app", "benchmarks.celery_app", "worker"]
        worker = [*app, "--pool", "solo", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        self._servers = [subprocess.Popen(command, cwd=directory) for command in (redis, worker)]
        from benchmarks.celery_app import noop

        def call() -> object:
            return noop.delay().get(interval=0.001).encode()

        noop.delay().get(timeout=60)
        self.calls = Calls(call=call)

    def stop(self) -> None:
        """End the worker, then Redis."""
        for server in reversed(self._servers):
            server.terminate()
            server.wait(10)
