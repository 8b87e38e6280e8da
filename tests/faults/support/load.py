"""Load on one endpoint from a process of its own, without Ray: open loop, over HTTP and handles, with a log.

Run as a module it sends requests, each at its intended time, until its standard input ends; then it waits for
what is under way, and exits. `Load` is how a test starts, watches and stops it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Protocol
from urllib.parse import urlencode

import serve_bridge as serve
from tests.faults.support.oracle import Outcome, line_of, outcomes_in, payload_of
from tests.support.waiting import wait_until

WAYS: Final = ("get", "post", "call", "repeatable-call", "get-anew", "post-anew", "blocking-call")
"""Over HTTP, kept alive or on a new connection each; through a handle, by default, declared idempotent, blocking."""
KEPT_S: Final = 2.0
"""How long an idle connection is used again; less than the server's `keep_alive_timeout_s`."""
IDEMPOTENT: Final = ("get", "get-anew", "repeatable-call")


class Target(Protocol):
    """An instance to load, such as a client of it."""

    @property
    def address(self) -> str:
        """Its address for `connect`."""

    @property
    def http_urls(self) -> list[str]:
        """Base URLs of its proxies, or of a web server in front of it."""


class Load:
    """A process that loads one endpoint; a context manager that starts and stops it."""

    def __init__(
        self,
        client: Target,
        endpoint: str,
        log: Path,
        *,
        rate: float = 120.0,
        timeout_s: float = 10.0,
        ways: Sequence[str] = WAYS,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Send *rate* requests a second to *endpoint* of *client*, from a process with *environment* beside its own."""
        self.log = log
        command = [sys.executable, "-m", "tests.faults.support.load"]
        command += ["--address", client.address, "--url", client.http_urls[0], "--endpoint", endpoint]
        command += [
            "--log",
            str(log),
            "--rate",
            str(rate),
            "--timeout",
            str(timeout_s),
            "--ways",
            ",".join(ways),
        ]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, **(environment or {})})

    def __enter__(self) -> Load:
        try:
            self.wait_for_more(1)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            assert self._process.wait(60) == 0
        finally:
            self._process.kill()
            self._process.wait()

    def outcomes(self) -> list[Outcome]:
        """Return how requests went so far."""
        return outcomes_in(self.log)

    def wait_for_more(self, count: int) -> None:
        """Wait until *count* requests more than now are over."""
        size = self._over() + count
        wait_until(lambda: self._over() >= size, 60.0 + count / 50)

    def _over(self) -> int:
        assert self._process.poll() is None, "the load has ended by itself"
        return self.log.read_bytes().count(b"\n") if self.log.exists() else 0


class _Sender:
    """Sends requests and logs how they went."""

    def __init__(self, handle: serve.Handle, url: str, log: BinaryIO, sent: BinaryIO, timeout_s: float) -> None:
        self._call = handle.options(timeout_s=timeout_s)
        self._repeatable = self._call.options(http_method="GET")
        self._http = _HTTP(url, timeout_s)
        self._log = log
        self._sent = sent
        self._timeout_s = timeout_s

    async def send(self, id: str, way: str, intended: float) -> None:
        """Send one request and log its outcome."""
        self._sent.write(id.encode() + b"\n")
        sent = time.monotonic()
        try:
            found = await self._answer(id, way)
        except serve.ServeBridgeError as error:
            found = {
                "status": error.http_status or 500,
                "executed": getattr(error, "executed", ""),
                "error": type(error).__name__,
            }
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            found = {"status": 0, "error": type(error).__name__}
        outcome = Outcome(
            id=id,
            kind="idempotent" if way in IDEMPOTENT else "other",
            intended=intended,
            sent=sent,
            done=time.monotonic(),
            deadline=sent + self._timeout_s,
            **found,
        )
        self._log.write(line_of(outcome))

    async def _answer(self, id: str, way: str) -> dict[str, Any]:
        payload = payload_of(id)
        if way == "call":
            return _fields(await self._call.acall(payload, id=id))
        if way == "blocking-call":
            return _fields(await asyncio.to_thread(self._call.call, payload, id=id))
        if way == "repeatable-call":
            return _fields(await self._repeatable.acall(payload, id=id))
        method, _, anew = way.partition("-")
        if method == "get":
            return await self._http.ask("GET", {"id": id, "payload": payload.decode()}, b"", anew=bool(anew))
        return await self._http.ask("POST", {"id": id}, payload, anew=bool(anew))


class _HTTP:
    """As much of an HTTP client as the answers of a proxy need; it tries nothing twice."""

    def __init__(self, url: str, timeout_s: float) -> None:
        base, _, self._path = url.removeprefix("http://").partition("/")
        self._host, _, port = base.rpartition(":")
        self._port = int(port)
        self._timeout_s = timeout_s + 5.0
        self._idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, method: str, query: dict[str, str], body: bytes, *, anew: bool) -> dict[str, Any]:
        """Send one request; return the fields of its outcome."""
        async with asyncio.timeout(self._timeout_s):
            reader, writer = (None if anew else self._kept()) or await self._connected()
            try:
                head = f"{method} /{self._path}?{urlencode(query)} HTTP/1.1\r\nhost: {self._host}\r\n"
                length = f"content-length: {len(body)}\r\n" if body else ""
                close = "connection: close\r\n" if anew else ""
                writer.write((head + length + close + "\r\n").encode() + body)
                status, headers = _parsed(await reader.readuntil(b"\r\n\r\n"))
                content = await reader.readexactly(int(headers["content-length"]))
            except BaseException:
                writer.close()
                raise
            if anew or headers.get("connection") == "close":
                writer.close()
            else:
                self._idle.append((time.monotonic(), reader, writer))
        fields = _fields(json.loads(content)) if status == 200 else {"error": content.decode()[:300]}
        return {**fields, "status": status, "executed": headers.get("x-serve-executed", "")}

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._host, self._port)

    def _kept(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        while self._idle:
            since, reader, writer = self._idle.pop()
            # One that has been idle for longer may be closed by the server just as it is used.
            if time.monotonic() - since < KEPT_S and not reader.at_eof():
                return reader, writer
            writer.close()
        return None


def _parsed(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode().rstrip().split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    return int(first.split(" ")[1]), {name.lower(): value for name, _, value in pairs}


def _fields(answer: dict[str, Any]) -> dict[str, Any]:
    return {
        "status": 200,
        "echoed": answer["id"],
        "digest": answer["digest"],
        "version": answer["version"],
        "replica": str(answer["pid"]),
    }


async def run(options: argparse.Namespace) -> None:
    """Send requests until standard input ends, then wait for those under way."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(256))  # so that no blocking call waits for a thread before it is sent
    ended = asyncio.Event()
    loop.add_reader(sys.stdin, lambda: os.read(0, 1) or ended.set())
    client = serve.connect(options.address)
    endpoint = options.endpoint
    url = f"{options.url}/{endpoint}"
    ways = itertools.cycle(options.ways.split(","))
    with options.log.open("ab", 0) as log, options.log.with_suffix(".sent").open("ab", 0) as ids:
        sender = _Sender(client.get_handle(endpoint), url, log, ids, options.timeout)
        running: set[asyncio.Task[None]] = set()
        began = loop.time()
        for number in itertools.count():
            intended = began + number / options.rate
            try:
                async with asyncio.timeout_at(intended):
                    await ended.wait()
                break
            except TimeoutError:
                task = loop.create_task(sender.send(f"{options.log.stem}-{number}", next(ways), intended))
                running.add(task)
                task.add_done_callback(running.discard)
        await asyncio.gather(*running)
    client.close()


def main() -> None:
    """Run as a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--timeout", type=float, required=True)
    parser.add_argument("--ways", required=True)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
