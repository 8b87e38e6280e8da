"""Web servers as processes: how each is started over which app, what it answers, and how it ends."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import stat
import struct
import subprocess
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import urlsplit

import httpx

from tests.e2e.support.apps.facts import WORKER
from tests.support.listening import free_port
from tests.support.programs import ROOT, descendants, kill_all, start_module
from tests.support.waiting import wait_until

WORKERS = 2
END_S = 20.0
"""Less than the 30 s for which gunicorn waits before it kills."""
BEGIN_S = 60.0
"""Time for a server to import its app and listen, on a busy machine too."""
CALLERS = 16
_CREDENTIALS = struct.Struct("3i")  # process, user, group

_FLASK = "tests.e2e.support.apps.flask_app:app"
_STARLETTE = "tests.e2e.support.apps.starlette_app:app"
_DJANGO_WSGI = "tests.e2e.support.apps.django_project.wsgi:application"
_DJANGO_ASGI = "tests.e2e.support.apps.django_project.asgi:application"


@dataclass(frozen=True)
class Command:
    """How a server is started.

    Attributes:
        arguments: What follows `python -m`; `{port}` is where it listens.
        route: Where its app forwards.
        drops: A worker that ends closes connections whose request it has not read, whatever the app; a caller
            that gets no answer at all asks again, as a reverse proxy does.
    """

    arguments: tuple[str, ...]
    route: str = "/echo"
    drops: bool = False


def gunicorn(app: str, *options: str, route: str = "/echo") -> Command:
    """Return the command of gunicorn over *app*."""
    own = ("--bind", "127.0.0.1:{port}", "--workers", str(WORKERS), "--no-control-socket")
    return Command(("gunicorn", *own, "--config", "python:tests.e2e.support.apps.gunicorn_hooks", *options, app), route)


def uvicorn(app: str, *options: str, route: str = "/echo") -> Command:
    """Return the command of uvicorn over *app*."""
    return Command(("uvicorn", "--port", "{port}", "--workers", str(WORKERS), *options, app), route)


def granian(app: str, *options: str, route: str = "/echo") -> Command:
    """Return the command of Granian over *app*."""
    return Command(("granian", "--port", "{port}", "--workers", str(WORKERS), *options, app), route)


_GTHREAD = ("--worker-class", "gthread", "--threads", "4")
_RECYCLED = ("--max-requests", "25")
_UVICORN_WORKER = ("--worker-class", "uvicorn_worker.UvicornWorker")

SERVERS: Mapping[str, Command] = {
    "gunicorn-sync-flask": gunicorn(_FLASK),
    "gunicorn-gthread-django": gunicorn(_DJANGO_WSGI, *_GTHREAD),
    "gunicorn-preload-flask": gunicorn(_FLASK, "--preload"),
    "gunicorn-uvicorn-starlette": gunicorn(_STARLETTE, *_UVICORN_WORKER),
    "gunicorn-asgi-starlette": gunicorn(_STARLETTE, "--worker-class", "asgi"),
    "uvicorn-starlette": uvicorn(_STARLETTE),
    "uvicorn-django": uvicorn(_DJANGO_ASGI, route="/async/echo"),
    "granian-asgi-starlette": granian(_STARLETTE, "--interface", "asgi"),
    "granian-wsgi-flask": granian(_FLASK, "--interface", "wsgi"),
}
RECYCLING: Mapping[str, Command] = {
    "gunicorn-preload-flask": gunicorn(_FLASK, "--preload", *_RECYCLED),
    "gunicorn-gthread-django": gunicorn(_DJANGO_WSGI, *_GTHREAD, *_RECYCLED),
    "gunicorn-uvicorn-starlette": replace(gunicorn(_STARLETTE, *_UVICORN_WORKER, *_RECYCLED), drops=True),
}
PRELOADED = gunicorn(_FLASK, "--preload")
PATCHED = gunicorn(_FLASK, "--worker-class", "gevent")
FLASK_RELOADING = Command(("site_app", "{port}"))
DJANGO_RELOADING = Command(("django", "runserver", "--settings", "site_settings", "127.0.0.1:{port}"))


@dataclass(frozen=True)
class Answer:
    """What a forwarded request came back with, and from which worker; status 0: no answer came."""

    number: int
    status: int
    text: str
    worker: int


class WebServer:
    """A server that runs; as a context manager it is killed, with all it has started, if it still does.

    Attributes:
        url: Where it listens.
    """

    def __init__(
        self, command: Command, log: Path, *, directory: Path = ROOT, environment: Mapping[str, str] | None = None
    ) -> None:
        port = free_port()
        arguments = [argument.format(port=port) for argument in command.arguments]
        self._log = log
        self._command = command
        self.url = f"http://127.0.0.1:{port}"
        self._http = httpx.Client(
            base_url=self.url,
            # A connection each: what a server does with an idle one when its worker ends is not the matter here.
            limits=httpx.Limits(max_keepalive_connections=0),
            timeout=30,
            trust_env=False,
        )
        self._numbers = itertools.count()
        self.process: subprocess.Popen[bytes] = start_module(
            *arguments, log=log, directory=directory, environment=environment
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        kill_all(self.process)

    @property
    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text()

    def get(self, path: str) -> httpx.Response:
        """Ask the app itself; waits until it listens.

        Raises:
            AssertionError: It has ended, or does not listen.
        """
        return cast(httpx.Response, wait_until(lambda: self._get(path), BEGIN_S))  # it waits for what is not None

    def _get(self, path: str) -> httpx.Response | None:
        assert self.process.poll() is None, self.log
        with suppress(httpx.TransportError):
            return self._http.get(path)
        return None

    def ready(self) -> dict[int, dict[str, Any]]:
        """Wait for every worker; return what each says of itself, none having forwarded a request yet."""
        found: dict[int, dict[str, Any]] = {}
        with ThreadPoolExecutor(CALLERS) as callers:

            def all_answered() -> bool:
                for answer in callers.map(self.get, ["/facts"] * CALLERS):
                    found.setdefault(answer.json()["pid"], answer.json())
                return len(found) >= WORKERS

            wait_until(all_answered, BEGIN_S)
        return found

    def ask(self, count: int) -> list[Answer]:
        """Forward *count* requests, many at a time."""
        with ThreadPoolExecutor(CALLERS) as callers:
            return list(callers.map(self._ask, itertools.islice(self._numbers, count)))

    def _ask(self, number: int) -> Answer:
        path = f"{self._command.route}/{number}"
        while True:
            try:
                answer = self._http.post(path, content=f"body {number}")
            except httpx.TransportError as error:
                if not self._command.drops:
                    return Answer(number, 0, repr(error), 0)
            else:
                return Answer(number, answer.status_code, answer.text, int(answer.headers.get(WORKER, 0)))

    def upload(self, body: bytes, *, chunked: bool) -> httpx.Response:
        """Forward a request with *body*, in chunks or with its length."""
        return self._http.post(f"{self._command.route}/1", content=iter([body]) if chunked else body)

    def two_answers(self, number: int) -> bytes:
        """Forward request *number* and another one on one connection; return what comes until the server closes it.

        Raises:
            TimeoutError: The server keeps it open after the second answer.
        """
        address = urlsplit(self.url)
        head = f"Host: {address.netloc}\r\nContent-Length: 0\r\n"
        with socket.create_connection((address.hostname or "", address.port or 80), timeout=END_S) as connection:
            first = f"POST {self._command.route}/{number} HTTP/1.1\r\n{head}\r\n"
            second = f"POST {self._command.route}/1 HTTP/1.1\r\n{head}Connection: close\r\n\r\n"
            connection.sendall((first + second).encode())
            received = bytearray()
            with suppress(ConnectionResetError):
                while piece := connection.recv(65536):
                    received += piece
            return bytes(received)

    def end(self) -> int:
        """Send SIGTERM; return the exit code.

        Raises:
            TimeoutExpired: It does not end in `END_S`.
        """
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(END_S)

    def family(self) -> set[int]:
        """Return its process and those that it has started."""
        return {self.process.pid, *(process.pid for process in descendants(self.process))}


def lost(answers: Iterable[Answer]) -> list[Answer]:
    """Return those that are not what the backend makes of their requests."""
    return [a for a in answers if (a.status, a.text) != (200, f"POST {a.number} body {a.number}")]


def connected_processes(directory: Path) -> set[int]:
    """Return the other processes that opened a connection to a socket in *directory* that this process serves."""
    return {
        pid for entry in os.listdir("/proc/self/fd") if (pid := _peer(int(entry), directory)) not in (0, os.getpid())
    }


def _peer(descriptor: int, directory: Path) -> int:
    with suppress(OSError):  # closed meanwhile, or it only listens
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            with socket.socket(fileno=os.dup(descriptor)) as copy:
                return _opener(copy) if _is_in(copy, directory) else 0
    return 0


def _is_in(connection: socket.socket, directory: Path) -> bool:
    name = connection.getsockname()
    connection.getpeername()
    return connection.family == socket.AF_UNIX and str(name).startswith(f"{directory}{os.sep}")


def _opener(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[0])
