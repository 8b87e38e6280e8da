"""GETs at a constant rate, independent of the answers: `python -m benchmarks.load.open_loop URL --rate 1000`.

Rule 1: the latency of a request begins when the request is due, not when a connection is free. All requests due in a
    pause of the server count with their full delay (no coordinated omission).
Rule 2: these latencies include the client's own delay: it may wake up late although a connection is free. The report
    gives this delay as a figure of its own.
"""

from __future__ import annotations

import argparse
import select
import socket
from collections import deque
from time import perf_counter
from typing import Final
from urllib.parse import urlsplit

import httptools

from benchmarks.load.calls import percentile, print_report

GRACE_S: Final = 5.0
"""Upper limit for the wait for answers after the load, in seconds."""


class _Connection:
    """One connection, one request at a time."""

    def __init__(self, address: tuple[str, int], loader: OpenLoop) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loader = loader
        self._parser = httptools.HttpResponseParser(self)
        self._due = 0.0
        self._free_since = 0.0

    def fileno(self) -> int:
        """Return the file descriptor for `select`."""
        return self.socket.fileno()

    def send(self, due: float) -> None:
        """Send the request with the due time *due*."""
        self._due = due
        self._loader.lags.append(perf_counter() - max(due, self._free_since))
        self.socket.sendall(self._loader.request)

    def read(self) -> bool:
        """Read the available data. Return False if the server has closed the connection."""
        data = self.socket.recv(65536)
        if data:
            self._parser.feed_data(data)
        return bool(data)

    def on_message_complete(self) -> None:
        """Count the answer."""
        self._free_since = perf_counter()
        self._loader.answered(self, self._due, ok=self._parser.get_status_code() == 200)


class OpenLoop:
    """Sends due requests over free connections."""

    def __init__(self, url: str, connections: int, rate: float) -> None:
        parts = urlsplit(url)
        self.request = f"GET {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
        self._rate = rate
        address = parts.hostname or "127.0.0.1", parts.port or 80
        self._open = [_Connection(address, self) for _ in range(connections)]
        self._free = deque(self._open)
        self.latencies: list[float] = []
        self.lags: list[float] = []
        self.errors = 0

    def answered(self, connection: _Connection, due: float, *, ok: bool) -> None:
        """Record the latency and mark the connection as free."""
        if ok:
            self.latencies.append(perf_counter() - due)
        else:
            self.errors += 1
        self._free.append(connection)

    def run(self, seconds: float) -> None:
        """Load for *seconds*, then wait for the remaining answers. A missing answer is an error."""
        wanted = max(1, round(self._rate * seconds))
        start = perf_counter()
        sent = 0
        while len(self.latencies) + self.errors < wanted:
            now = perf_counter()
            sent = self._send_due(start, sent, wanted, now)
            if now > start + seconds + GRACE_S or not self._open:
                self.errors = wanted - len(self.latencies)
                break
            # Without a free connection, only an answer is a reason to wake up.
            idle = start + sent / self._rate - perf_counter() if sent < wanted and self._free else 0.1
            for connection in select.select(self._open, (), (), max(0.0, idle))[0]:
                self._read(connection)
        for connection in self._open:
            connection.socket.close()

    def _send_due(self, start: float, sent: int, wanted: int, now: float) -> int:
        while self._free and sent < wanted and (due := start + sent / self._rate) <= now:
            self._free.popleft().send(due)
            sent += 1
        return sent

    def _read(self, connection: _Connection) -> None:
        try:
            alive = connection.read()
        except OSError:
            alive = False
        if not alive:
            self._open.remove(connection)
            if connection in self._free:
                self._free.remove(connection)
            else:
                self.errors += 1


def main() -> None:
    """Load the URL of the command line, and print the JSON line of the wrk report with the client's own delay."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rate", type=float, default=1000.0)
    asked = parser.parse_args()
    loop = OpenLoop(asked.url, asked.connections, asked.rate)
    loop.run(asked.seconds)
    lag_us = percentile(sorted(loop.lags), 0.99) * 1e6 if loop.lags else 0.0
    print_report(asked.url, loop.latencies, asked.seconds, loop.errors, lag_us=lag_us)


if __name__ == "__main__":
    main()
