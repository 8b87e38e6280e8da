"""The contenders with a server of their own: bare uvicorn, Mosec, LitServe, the web apps, and Celery with Redis.

Rule 1: each has one worker process in its fastest mode, as every contender has one replica.
Rule 2: each listens on loopback at a port of its own. Its parent process is the stage, which ends it.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.contenders.bridge import Bridge
from benchmarks.contenders.contender import Contender, free_port
from benchmarks.load.calls import Calls

STOP_LIMIT_S: Final = 20.0
UVICORN: Final = ("uvicorn", "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning")
GUNICORN: Final = (
    "gunicorn",
    "--workers",
    "1",
    "--worker-class",
    "gthread",
    "--threads",
    "8",
    "--log-level",
    "warning",
)


def run_module(words: tuple[str, ...], directory: Path, environment: Mapping[str, str] = {}) -> subprocess.Popen[bytes]:
    """Start `python -m` with *words*, in *directory* and with *environment* added."""
    # A session of its own, because some servers send signals to their whole process group.
    return subprocess.Popen(
        [sys.executable, "-m", *words], cwd=directory, env={**os.environ, **environment}, start_new_session=True
    )


def end(server: subprocess.Popen[bytes]) -> None:
    """Terminate a server and wait for its end."""
    server.terminate()
    server.wait(STOP_LIMIT_S)


class Server(Contender):
    """One HTTP server: the path of its answer, and its module with options, among them `{port}`."""

    def __init__(self, path: str, *words: str) -> None:
        self._path = path
        self._words = words
        self._server: subprocess.Popen[bytes] | None = None

    def start(self, directory: Path) -> None:
        """Start the server. It answers a moment later."""
        self.run(directory, {})

    def run(self, directory: Path, environment: Mapping[str, str]) -> None:
        """Start the server with the variables *environment* added."""
        port = free_port()
        self._server = run_module(tuple(word.format(port=port) for word in self._words), directory, environment)
        self.url = f"http://127.0.0.1:{port}{self._path}"

    def stop(self) -> None:
        """End the server and wait for it."""
        if self._server is not None:
            end(self._server)


Bare = partial(Server, "/noop", *UVICORN, "--port", "{port}", "benchmarks.contenders.bare:app")
"""The same handler in Starlette under uvicorn, without a second process: the upper limit for any bridge."""

LitServe = partial(Server, "/inference", "benchmarks.contenders.litserve_app", "{port}")
"""FastAPI in front of one worker process."""

_MOSEC: Final = ("--address", "127.0.0.1", "--port", "{port}", "--path", "mosec", "--log-level", "warning")
Mosec = partial(Server, "/inference", "benchmarks.contenders.mosec_app", *_MOSEC)
"""A Rust server in front of one Python process. The process receives and returns bytes, not JSON."""


class WebApp(Server):
    """Row 4: an app of `web_apps`, under gunicorn if its interface is WSGI, otherwise under uvicorn."""

    def __init__(self, app: str, interface: str) -> None:
        place = f"benchmarks.contenders.web_apps:{app}"
        wsgi = (*GUNICORN, "--bind", "127.0.0.1:{port}", f"{place}()")
        asgi = (*UVICORN, "--port", "{port}", "--factory", place)
        super().__init__("/noop", *(wsgi if interface == "wsgi" else asgi))


class ForwardingWebApp(WebApp):
    """A web app with a view that is forwarded to a replica on Ray."""

    def __init__(self, app: str, interface: str) -> None:
        super().__init__(app, interface)
        self._bridge = Bridge()

    def start(self, directory: Path) -> None:
        """Start an instance on Ray, then the server."""
        self._bridge.start(directory)
        assert self._bridge.caller is not None
        self.run(directory, self._bridge.caller.environment)

    def stop(self) -> None:
        """End the server, then the instance."""
        super().stop()
        self._bridge.stop()


class Celery(Contender):
    """`noop.delay().get(interval=0.001)` through Redis to one worker process. Redis writes nothing to disk."""

    def __init__(self) -> None:
        self._servers: list[subprocess.Popen[bytes]] = []

    def start(self, directory: Path) -> None:
        """Start Redis and the worker, and wait for the first answer."""
        port = free_port()
        os.environ["CELERY_BENCHMARK_REDIS"] = f"redis://127.0.0.1:{port}/0"
        redis = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
        self._servers.append(subprocess.Popen(redis, cwd=directory))
        worker = ("celery", "--app", "benchmarks.contenders.celery_app", "worker", "--pool", "solo")
        alone = ("--without-gossip", "--without-mingle", "--without-heartbeat")
        self._servers.append(run_module((*worker, *alone), directory))
        from benchmarks.contenders.celery_app import noop

        def call() -> bytes:
            return str(noop.delay().get(interval=0.001)).encode()

        noop.delay().get(timeout=60)
        self.calls = Calls(call=call)

    def stop(self) -> None:
        """End the worker, then Redis."""
        gc.collect()  # a result that is collected later searches for Redis for half a minute
        for server in reversed(self._servers):
            end(server)
