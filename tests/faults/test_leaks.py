"""P33, P34: what comes and goes leaves nothing: memory, tasks, descriptors and threads are after it what they were.

Of the requests 5 % are reset by their client, at a random moment, 5 % run out of time and 1 % raise.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import random
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

import serve_bridge as serve
from tests.faults.conftest import LONG_ONLY, actors, scaled
from tests.faults.report.figures import note
from tests.faults.support.fronts import running
from tests.support.waiting import wait_until, wait_until_equal

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(1200)]

REQUESTS: Final = scaled(10_000)
WARM_UP: Final = max(REQUESTS // 10, 4_000)
CLIENTS: Final = 32
SPARE: Final[Mapping[str, Callable[[int], float]]] = {
    "tasks": lambda _: 0,
    "descriptors": lambda _: 3,  # Ray opens connections of its own, and threads
    "threads": lambda _: 3,
    "objects": lambda old: 0.05 * old,
    "memory": lambda old: 0.05 * old,
}
"""By how much each may grow."""
HANGS_FOR_S: Final = "0.1"
UPLOAD: Final = b"x" * 100_000
RESET: Final = struct.pack("ii", 1, 0)


def vitals() -> dict[str, int]:
    """Return how many tasks this loop has, and how many objects this process."""
    gc.collect()
    return {"tasks": len(asyncio.all_tasks()), "objects": len(gc.get_objects())}


class Busy:
    """Does what the query says."""

    async def __call__(self, request: Any) -> Any:
        """Answer, stream, read, raise or hang."""
        what = request.query_params["do"]
        if what == "vitals":
            return vitals()
        if what == "raise":
            raise ValueError("as asked")
        if what == "hang":
            await asyncio.Event().wait()
        if what == "stream":
            return self._parts()
        if what == "read":
            return {"size": sum([len(chunk) async for chunk in request.stream()])}
        return {"answer": 1}

    async def _parts(self) -> AsyncIterator[bytes]:
        for _ in range(8):
            yield b"0123456789abcdef" * 2048


class Vitals:
    """A middleware that answers `/vitals` with those of the proxy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope.get("path") != "/vitals":
            await self._app(scope, receive, send)
            return
        body = json.dumps(vitals()).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
def instance(ray_cluster: Any) -> Iterator[serve.Client]:
    """An instance on Ray; on a busy machine, an idle connection of the load must not be closed as it is used again."""
    options = {"port": 0, "middlewares": [Middleware(Vitals)], "keep_alive_timeout_s": 600}
    client = serve.start(name="leaks", http_options=options)
    client.create_backend("busy", Busy, config={"max_concurrent_queries": 2 * CLIENTS})
    client.create_endpoint("transfer", backend="busy", route="/transfer", methods=["GET", "POST"])
    yield client
    client.shutdown()
    wait_until(lambda: not actors())


# The load


class Load:
    """Clients that ask in turn and now and then go wrong.

    Attributes:
        seen: How often each status came back, and how often a client left.
    """

    def __init__(self, url: str, seed: int) -> None:
        where = urlsplit(url)
        self._address = (where.hostname or "", where.port or 80)
        self._chance = random.Random(seed)
        self.seen: Counter[str] = Counter()

    def run(self, count: int) -> None:
        """Send *count* requests."""
        asyncio.run(self._run(count))

    async def _run(self, count: int) -> None:
        numbers = iter(range(count))
        async with asyncio.TaskGroup() as clients:
            for _ in range(CLIENTS):
                clients.create_task(self._client(numbers))

    async def _client(self, numbers: Iterator[int]) -> None:
        connection = None
        for _ in numbers:
            draw = self._chance.random()
            if draw < 0.05:
                await self._leave()
                continue
            if connection is None:
                connection = await asyncio.open_connection(*self._address)
            kind = "hang" if draw < 0.10 else "raise" if draw < 0.11 else self._chance.choice(("ok", "stream", "read"))
            if not await self._ask(*connection, kind):
                connection[1].close()
                connection = None
        if connection is not None:
            connection[1].close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kind: str) -> bool:
        """Send one request and read the answer; return whether the connection can be used again."""
        writer.write(_request(kind))
        head = await reader.readuntil(b"\r\n\r\n")
        self.seen[head[9:12].decode()] += 1
        lines = dict(line.split(": ", 1) for line in head.decode().lower().splitlines()[1:] if line)
        if "content-length" in lines:
            await reader.readexactly(int(lines["content-length"]))
        else:
            while size := int(await reader.readline(), 16):
                await reader.readexactly(size + 2)
            await reader.readline()
        return lines.get("connection") != "close"

    async def _leave(self) -> None:
        """Reset a connection at a random moment of a request."""
        request = _request(self._chance.choice(("ok", "stream", "read", "hang")))
        cut = self._chance.choice((0, self._chance.randrange(len(request)), len(request)))
        _, writer = await asyncio.open_connection(*self._address)
        writer.write(request[:cut])
        await asyncio.sleep(self._chance.choice((0, 0.002, 0.02)))
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()
        self.seen["left"] += 1


def _request(kind: str) -> bytes:
    body = UPLOAD if kind == "read" else b""
    lines = [
        f"{'POST' if body else 'GET'} /transfer?do={kind} HTTP/1.1",
        "Host: localhost",
        f"Content-Length: {len(body)}",
    ]
    if kind == "hang":
        lines.append(f"X-Serve-Timeout-S: {HANGS_FOR_S}")
    return "\r\n".join([*lines, "", ""]).encode() + body


# What is measured


@dataclass(frozen=True)
class Measured:
    """What one process has.

    Attributes:
        memory: Resident bytes.
        descriptors, threads: Their numbers.
        tasks, objects: Of its loop and its collector; 0 where they cannot be asked for.
    """

    memory: int
    descriptors: int
    threads: int
    tasks: int = 0
    objects: int = 0


def measure(url: str, workers: Sequence[psutil.Process]) -> Mapping[str, Measured]:
    """Return what each process of the instance at *url* has, and each of *workers*."""
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as http:
        asked = {"Replica": "/transfer?do=vitals", "Proxy": "/vitals"}
        known = {kind: http.get(path).json() for kind, path in asked.items()}
    found = {kind: process for kind in ("Controller", "Proxy", "Replica") for process in actors(kind)}
    found |= {f"worker {process.pid}": process for process in workers}
    return {name: _measured(process, known.get(name, {})) for name, process in found.items()}


def _measured(process: psutil.Process, known: Mapping[str, int]) -> Measured:
    return Measured(process.memory_info().rss, process.num_fds(), process.num_threads(), **known)


def at_rest(url: str, workers: Sequence[psutil.Process] = ()) -> Mapping[str, Measured]:
    """Return what each process has once nothing is under way: the fewest tasks and descriptors of some looks."""
    looks = [measure(url, workers) for _ in range(5)]
    return {
        kind: min((look[kind] for look in looks), key=lambda found: (found.tasks, found.descriptors, found.memory))
        for kind in looks[0]
    }


def leaks(before: Mapping[str, Measured], after: Mapping[str, Measured]) -> list[str]:
    """Return what there is more of, for people to read."""
    found = []
    for kind, name in itertools.product(before, SPARE):
        old, new = getattr(before[kind], name), getattr(after[kind], name)
        if new > old + SPARE[name](old):
            found.append(f"{kind}: {name} grew from {old} to {new}")
    return found


def check(load: Load, url: str, workers: Sequence[psutil.Process] = ()) -> None:
    """Assert that each process has as much after the load as after its beginning."""
    load.run(WARM_UP)
    before = at_rest(url, workers)
    load.run(REQUESTS)
    wait_until_equal(lambda: leaks(before, at_rest(url, workers)), [])
    assert {"200", "500", "504", "left"} == load.seen.keys(), load.seen
    after = at_rest(url, workers)
    growth = [f"{kind} {(after[kind].memory - before[kind].memory) / 1024:+.0f} KiB" for kind in before]
    note(REQUESTS, f"{REQUESTS} requests, {load.seen['left']} resets, {load.seen['504']} timeouts: {', '.join(growth)}")


def test_requests_through_the_proxy_leave_nothing_behind(instance: serve.Client) -> None:
    """In none of the instance's processes."""
    url = instance.http_urls[0]
    check(Load(url, seed=33), url)


@LONG_ONLY
@pytest.mark.parametrize("front", ["flask", "starlette"])
def test_requests_through_an_app_leave_nothing_behind(instance: serve.Client, front: str, tmp_path: Path) -> None:
    """Nor in the workers of its web server."""
    with running(front, instance, tmp_path / "log", "do=ok") as server:
        workers = [psutil.Process(pid) for pid in server.family()]
        check(Load(server.url, seed=34), instance.http_urls[0], workers)
