"""Python callers in a closed loop: each caller sends its next call after the answer to the last call.

Rule 1: a process keeps one event loop for all its async loads, so that connections stay open.
Rule 2: only calls with an answer inside the load's time are counted. A load of windows ends with its last window.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

import uvloop

Kind = Literal["call", "acall", "remote"]


@dataclass(frozen=True, slots=True)
class Calls:
    """The ways to call a contender from Python. A missing way is None.

    Attributes:
        call: Sends one request and waits on the calling thread.
        acall: Sends one request and awaits the answer.
        remote: Sends the given number of requests, then waits for all answers.
    """

    call: Callable[[], object] | None = None
    acall: Callable[[], Awaitable[object]] | None = None
    remote: Callable[[int], object] | None = None

    def offers(self, kind: Kind) -> bool:
        """Return whether this way exists."""
        return getattr(self, kind) is not None


@dataclass(frozen=True, slots=True)
class Timing:
    """The figures of one load.

    Attributes:
        requests: Number of answers inside the load's time.
        seconds: Duration of the load.
        p50_ms: Median latency in milliseconds. For requests in windows, of a whole window. None for events.
        p99_ms: 99th percentile of the latency in milliseconds.
        errors: Number of failed connections, timeouts and wrong status codes.
        lag_ms: 99th percentile of an open loop's own delay in milliseconds. None for a closed loop.
    """

    requests: int
    seconds: float
    p50_ms: float | None
    p99_ms: float | None
    errors: int = 0
    lag_ms: float | None = None


def percentile(ordered: list[float], share: float) -> float:
    """Return the nearest-rank percentile of an ascending, non-empty list. *share* is in (0, 1]."""
    rank = max(1, -(-len(ordered) * share // 1))
    return ordered[int(rank) - 1]


def print_report(url: str, latencies_s: list[float], seconds: float, errors: int, **more: float) -> None:
    """Print the JSON line of the wrk report, with the additional figures *more*.

    Raises:
        SystemExit: No request had an answer.
    """
    ordered = sorted(latencies_s)
    if not ordered:
        raise SystemExit(f"no answer from {url}")
    report = {
        "requests": len(ordered),
        "duration_us": seconds * 1e6,
        "p50_us": percentile(ordered, 0.5) * 1e6,
        "p99_us": percentile(ordered, 0.99) * 1e6,
        "errors": errors,
    }
    print(json.dumps(report | more))


def timing(latencies_s: list[float], seconds: float, requests_each: int = 1, errors: int = 0) -> Timing:
    """Summarise measured latencies, which are in seconds.

    Raises:
        RuntimeError: No request had an answer in time.
    """
    if not latencies_s:
        raise RuntimeError(f"no answer within {seconds:.1f} s")
    ordered = sorted(latencies_s)
    return Timing(
        requests=len(ordered) * requests_each,
        seconds=seconds,
        p50_ms=percentile(ordered, 0.5) * 1e3,
        p99_ms=percentile(ordered, 0.99) * 1e3,
        errors=errors,
    )


class ClosedLoop:
    """A closed loop over one contender from this process."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)

    def offers(self, kind: Kind) -> bool:
        """Return whether this process can call the contender this way."""
        return self._calls.offers(kind)

    def answers(self) -> list[object]:
        """Return one answer of each way to call."""
        found: list[object] = [self._calls.call()] if self._calls.call else []
        if self._calls.acall is not None:
            found.append(self._runner.run(_awaited(self._calls.acall)))
        return found

    def load(self, kind: Kind, concurrency: int, seconds: float) -> Timing:
        """Call for *seconds* with *concurrency* threads, tasks or requests in a window; *kind* tells which.

        Raises:
            ValueError: The contender cannot be called this way.
        """
        if kind == "call" and self._calls.call is not None:
            return timing(_from_threads(self._calls.call, concurrency, seconds), seconds)
        if kind == "acall" and self._calls.acall is not None:
            return timing(self._runner.run(_from_tasks(self._calls.acall, concurrency, seconds)), seconds)
        if kind == "remote" and self._calls.remote is not None:
            return _in_windows(self._calls.remote, concurrency, seconds)
        raise ValueError(f"no {kind} here")

    def close(self) -> None:
        """Close the event loop."""
        self._runner.close()


def _until(end: float, call: Callable[[], object]) -> list[float]:
    latencies: list[float] = []
    began = perf_counter()
    while True:
        call()
        now = perf_counter()
        if now > end:
            return latencies
        latencies.append(now - began)
        began = now


def _in_windows(remote: Callable[[int], object], count: int, seconds: float) -> Timing:
    latencies: list[float] = []
    start = began = perf_counter()
    while began < start + seconds:
        remote(count)
        now = perf_counter()
        latencies.append(now - began)
        began = now
    return timing(latencies, began - start, count)


def _from_threads(call: Callable[[], object], count: int, seconds: float) -> list[float]:
    if count == 1:
        return _until(perf_counter() + seconds, call)
    end = perf_counter() + seconds
    found: list[list[float]] = []
    threads = [threading.Thread(target=lambda: found.append(_until(end, call))) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(found) < count:
        raise RuntimeError(f"{count - len(found)} of {count} calling threads failed")
    return [latency for latencies in found for latency in latencies]


async def _awaited(acall: Callable[[], Awaitable[object]]) -> object:
    return await acall()


async def _from_tasks(acall: Callable[[], Awaitable[object]], count: int, seconds: float) -> list[float]:
    end = perf_counter() + seconds
    latencies: list[float] = []

    async def task() -> None:
        began = perf_counter()
        while True:
            await acall()
            now = perf_counter()
            if now > end:
                return
            latencies.append(now - began)
            began = now

    async with asyncio.TaskGroup() as tasks:
        for _ in range(count):
            tasks.create_task(task())
    return latencies
