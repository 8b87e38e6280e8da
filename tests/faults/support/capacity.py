"""C, the capacity of an instance: the requests a second of a closed loop with 32 connections, beside a bare server.

`python -m uvicorn tests.faults.support.capacity:bare` is the bare server: Starlette with the handler of the backend.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import serve_bridge as serve
from tests.faults.support.backends import Recorder
from tests.support.listening import free_port
from tests.support.waiting import wait_until

NAME: Final = "capacity"
CONNECTIONS: Final = 32
ROUNDS: Final = 5
ROUND_S: Final = 1.0
JOURNAL: Final = "CAPACITY_JOURNAL"

_numbers = itertools.count()


async def _bare(request: Request) -> Response:
    recorder: Recorder = request.app.state.recorder
    return JSONResponse(await recorder(request))


def bare() -> Starlette:
    """Return the app of the bare server."""
    app = Starlette(routes=[Route(f"/{NAME}", _bare)])
    app.state.recorder = Recorder(os.environ[JOURNAL], work_s=0)
    return app


@contextmanager
def _bare_server(directory: Path) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "--no-access-log", "--log-level", "warning"]
    environment = {**os.environ, JOURNAL: str(directory / "bare")}
    process = subprocess.Popen([*command, "--port", str(port), f"{__name__}:bare"], env=environment)
    try:
        wait_until(lambda: _answers(f"http://127.0.0.1:{port}"))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return (
            httpx.get(f"{url}/{NAME}", params={"id": "first", "payload": ""}, trust_env=False, timeout=30).status_code
            == 200
        )
    except httpx.TransportError:
        return False


def measure(client: serve.Client, directory: Path) -> str:
    """Return the capacity of the instance and its share of a bare server's, for people to read."""
    client.create_backend(NAME, Recorder, str(directory / NAME), "v1", 0, config={"max_concurrent_queries": 64})
    client.create_endpoint(NAME, backend=NAME, route=f"/{NAME}")
    try:
        with _bare_server(directory) as bare_url:
            urls = (client.http_urls[0], bare_url)
            rounds = [[asyncio.run(_round(url, CONNECTIONS)) for url in urls] for _ in range(ROUNDS)]
            alone = [[asyncio.run(_round(url, 1)) for url in urls] for _ in range(ROUNDS)]
    finally:
        client.delete_endpoint(NAME)
        client.delete_backend(NAME)
    ours, theirs = (statistics.median(len(each) / ROUND_S for each in column) for column in zip(*rounds, strict=True))
    near, far = (statistics.median(statistics.median(each) for each in column) for column in zip(*alone, strict=True))
    return (
        f"C = {ours:.0f} requests a second, {ours / theirs:.2f} of a bare server; "
        f"one request takes {1000 * near:.1f} ms, {near / far:.1f} times as long as there"
    )


async def _round(url: str, connections: int) -> list[float]:
    """Return the seconds of each request of *connections* clients, each with one request at a time."""
    until = time.monotonic() + ROUND_S
    times: list[float] = []
    async with asyncio.TaskGroup() as clients:
        for _ in range(connections):
            clients.create_task(_client(url, until, times))
    return times


async def _client(url: str, until: float, times: list[float]) -> None:
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    while (began := time.monotonic()) < until:
        line = f"GET /{NAME}?id=c{next(_numbers)}&payload=x HTTP/1.1\r\nhost: localhost\r\n\r\n"
        writer.write(line.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        (length,) = [int(each[15:]) for each in head.lower().split(b"\r\n") if each.startswith(b"content-length:")]
        await reader.readexactly(length)
        times.append(time.monotonic() - began)
    writer.close()
