"""Load over long-lived connections: `python -m benchmarks.load.stream_load events|websocket URL`.

Rule 1: all connections open first. Counting begins after the first answer on each of them.
Rule 2: the client does little work per event or message, because the benchmark measures the server, not the client.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable
from time import perf_counter
from typing import Final, cast
from urllib.parse import urlsplit

import uvloop

from benchmarks.load.calls import percentile

OPENING_LIMIT_S: Final = 20.0
"""Upper limit for the time until each connection has its first answer, in seconds."""
MESSAGE: Final = b"0123456789abcdef"
# A text frame masked with zeros, which leave the payload unchanged. The echo has no mask.
_FRAME: Final = bytes((0x81, 0x80 | len(MESSAGE))) + bytes(4) + MESSAGE
_ANSWER: Final = bytes((0x81, len(MESSAGE))) + MESSAGE
_UPGRADE: Final = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


class _Connection(asyncio.Protocol):
    """A connection of either kind: sends the request, and reports the first answer."""

    headers = ""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._transport: asyncio.Transport | None = None
        self._opened = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's class is not a subclass of asyncio's
        self._transport.write(self._loader.request(self.headers))

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the lost connection, which is an error before the end of the load."""
        self._loader.lost()

    def opened(self) -> None:
        """Report the first answer."""
        self._opened = True
        self._loader.opened()

    def close(self) -> None:
        """Drop the connection, like a client that leaves."""
        if self._transport is not None:
            self._transport.abort()


class EventStream(_Connection):
    """Counts events by the blank line at the end of each."""

    _ends_in_newline = False

    def data_received(self, data: bytes) -> None:
        """Count events. A blank line may be split between two reads."""
        count = data.count(b"\n\n") + (self._ends_in_newline and data.startswith(b"\n"))
        self._ends_in_newline = data.endswith(b"\n")
        if count and not self._opened:
            self.opened()
        self._loader.count(count)


class WebSocketEcho(_Connection):
    """Sends a message, waits for its echo, and sends it again."""

    headers = _UPGRADE
    _received = b""
    _began = 0.0

    def data_received(self, data: bytes) -> None:
        """Time the echo and send the next message."""
        self._received += data
        if not self._opened:
            head, end, self._received = self._received.partition(b"\r\n\r\n")
            if not end:
                self._received = head
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self.close()
                return
            self.opened()
            self._send()
        if len(self._received) < len(_ANSWER):
            return
        if self._received != _ANSWER:
            self.close()
            return
        self._received = b""
        self._loader.count(1, perf_counter() - self._began)
        self._send()

    def _send(self) -> None:
        assert self._transport is not None
        self._began = perf_counter()
        self._transport.write(_FRAME)


class Loader:
    """Opens the connections, counts for a while, and closes them."""

    def __init__(self, url: str, connection: Callable[[Loader], _Connection], connections: int) -> None:
        self._parts = urlsplit(url)
        self._make = connection
        self._wanted = connections
        self._waiting_for = connections
        self._all_open = asyncio.Event()
        self._counting = False
        self._leaving = False
        self.counted = 0
        self.latencies: list[float] = []
        self.errors = 0

    def request(self, headers: str) -> bytes:
        """Return the head of a request with the additional *headers*."""
        target = f"{self._parts.path}?{self._parts.query}"
        return f"GET {target} HTTP/1.1\r\nHost: {self._parts.netloc}\r\n{headers}\r\n".encode()

    def begin(self) -> None:
        """Count from now on."""
        self._counting = True

    def opened(self) -> None:
        """Record an open connection."""
        self._waiting_for -= 1
        if not self._waiting_for:
            self._all_open.set()

    def lost(self) -> None:
        """Count a lost connection as an error unless the load has ended."""
        self.errors += not self._leaving

    def count(self, number: int, latency_s: float | None = None) -> None:
        """Count events or messages inside the measured time."""
        if self._counting:
            self.counted += number
            if latency_s is not None:
                self.latencies.append(latency_s)

    async def run(self, seconds: float) -> float:
        """Load, and return the measured seconds.

        Raises:
            TimeoutError: A connection had no first answer.
        """
        loop = asyncio.get_running_loop()
        address = self._parts.hostname or "127.0.0.1", self._parts.port or 80
        made = [await loop.create_connection(lambda: self._make(self), *address) for _ in range(self._wanted)]
        async with asyncio.timeout(OPENING_LIMIT_S):
            await self._all_open.wait()
        began = perf_counter()
        self.begin()
        await asyncio.sleep(seconds)
        self._counting, self._leaving = False, True
        counted = perf_counter() - began
        for _, connection in made:
            connection.close()
        await asyncio.sleep(0)
        return counted


KINDS: Final = {"events": EventStream, "websocket": WebSocketEcho}


def main() -> None:
    """Load the URL of the command line, and print the JSON line of the wrk report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    asked = parser.parse_args()

    async def load() -> tuple[Loader, float]:
        loader = Loader(asked.url, KINDS[asked.kind], asked.connections)
        return loader, await loader.run(asked.seconds)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        loader, seconds = runner.run(load())
    ordered = sorted(loader.latencies)
    report = {
        "requests": loader.counted,
        "duration_us": seconds * 1e6,
        "p50_us": percentile(ordered, 0.5) * 1e6 if ordered else None,
        "p99_us": percentile(ordered, 0.99) * 1e6 if ordered else None,
        "errors": loader.errors,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
