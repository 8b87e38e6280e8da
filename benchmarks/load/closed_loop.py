"""A small HTTP load generator for machines without wrk: `python -m benchmarks.load.closed_loop URL`.

Its CPU time differs from wrk's, so its figures are comparable only with one another.
"""

from __future__ import annotations

import argparse
import asyncio
from itertools import cycle
from time import perf_counter
from typing import cast
from urllib.parse import urlsplit

import httptools
import uvloop

from benchmarks.load.calls import print_report


class _Exchange(asyncio.Protocol):
    """One connection: sends a request, times its answer, sends the next."""

    def __init__(self, loader: _Loader) -> None:
        self._loader = loader
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._began = perf_counter()  # the latency of the first request includes the time to connect
        self._answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's class is not a subclass of asyncio's
        self._transport.write(next(self._loader.requests))

    def data_received(self, data: bytes) -> None:
        """Feed the parser, which calls `on_message_complete` at the end of each answer."""
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Count the answer and send the next request."""
        now = perf_counter()
        self._answered = True
        self._loader.count(now - self._began, now, ok=self._parser.get_status_code() == 200)
        assert self._transport is not None
        if self._loader.over(now) or self._loader.new_connections:
            self._transport.close()
        else:
            self._began = now
            self._answered = False
            self._parser = httptools.HttpResponseParser(self)
            self._transport.write(next(self._loader.requests))

    def connection_lost(self, exc: Exception | None) -> None:
        """Open the next connection if time is left."""
        self._loader.closed(answered=self._answered)


class _Loader:
    def __init__(self, url: str, *, new_connections: bool, seconds: float, endpoints: int = 0, body: int = 0) -> None:
        parts = urlsplit(url)
        self.new_connections = new_connections
        close = "Connection: close\r\n" if new_connections else ""
        paths = [f"{parts.path}{number}" for number in range(endpoints)] if endpoints else [parts.path or "/"]
        verb, length = ("POST", f"Content-Length: {body}\r\n") if body else ("GET", "")
        headers = f"Host: {parts.netloc}\r\n{length}{close}\r\n"
        self.requests = cycle(f"{verb} {path} HTTP/1.1\r\n{headers}".encode() + b"1" * body for path in paths)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._seconds = seconds
        self._end = 0.0
        self.latencies: list[float] = []
        self.errors = 0
        self._open = 0
        self._all_closed = asyncio.Event()

    def over(self, now: float) -> bool:
        return now > self._end

    def count(self, latency_s: float, now: float, *, ok: bool) -> None:
        if self.over(now):
            return
        if ok:
            self.latencies.append(latency_s)
        else:
            self.errors += 1

    def closed(self, *, answered: bool) -> None:
        over = self.over(perf_counter())
        self.errors += not answered and not over
        if not over:
            self._connections.create_task(self._connect())
            return
        self._open -= 1
        if not self._open:
            self._all_closed.set()

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: _Exchange(self), *self._address)
        except OSError:
            self.closed(answered=False)

    async def run(self, connections: int) -> None:
        self._open = connections
        self._end = perf_counter() + self._seconds
        async with asyncio.timeout(self._seconds + 15), asyncio.TaskGroup() as self._connections:
            for _ in range(connections):
                self._connections.create_task(self._connect())
            await self._all_closed.wait()


def main() -> None:
    """Load the URL of the command line, and print the JSON line of the wrk report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--new-connections", action="store_true")
    parser.add_argument("settings", nargs="*", help="endpoints=N, body=BYTES: see wrk_report.lua")
    asked = parser.parse_intermixed_args()

    async def load() -> _Loader:
        settings = {name: int(value) for name, _, value in (one.partition("=") for one in asked.settings)}
        loader = _Loader(asked.url, new_connections=asked.new_connections, seconds=asked.seconds, **settings)
        await loader.run(asked.connections)
        return loader

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        loader = runner.run(load())
    print_report(asked.url, loader.latencies, asked.seconds, loader.errors)


if __name__ == "__main__":
    main()
