"""Row 5: the cost of a request with more replicas, endpoints, calling processes and idle connections.

Rule 1: each arrangement is an instance of its own.
Rule 2: requests go to all endpoints in turn, and every replica gets its share.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any, Final

import psutil

from benchmarks.contenders.bridge import noop
from benchmarks.contenders.contender import IN_FLIGHT
from benchmarks.contenders.entries import CALLERS
from benchmarks.contenders.stage import Stage
from benchmarks.load import web_load
from benchmarks.load.calls import Timing
from benchmarks.trial import Trial
from serve_bridge.client.client import link_of

CONNECTIONS: Final = 64
IDLING: Final = "idle-10000"
IDLE: Final = 10_000
IDLE_LIMIT_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Numbers of replicas and endpoints of an instance, and of connections of its load."""

    point: str
    replicas: int = 1
    endpoints: int = 1
    connections: int = CONNECTIONS


BASE: Final = Arrangement("scale-1")
ARRANGEMENTS: Final = (
    BASE,
    Arrangement("replicas-2", replicas=2),
    Arrangement("replicas-4", replicas=4),
    Arrangement("replicas-8", replicas=8),
    Arrangement("scale-8-1000", replicas=8, endpoints=1000),
    Arrangement("scale-8-1000-512", replicas=8, endpoints=1000, connections=8 * CONNECTIONS),
    Arrangement("endpoints-100", endpoints=100),
    Arrangement("endpoints-1000", endpoints=1000),
    Arrangement("endpoints-10000", endpoints=10_000),
)
CALLING: Final = {"callers-1": 1, "callers-8": 8, "callers-32": 32}


def start(replicas: int, endpoints: int) -> dict[str, Any]:
    """Start an instance.

    Returns:
        url: The URL, to be followed by the number of an endpoint.
        address: The address of the instance.
        declare_s: The seconds to declare all endpoints but one in one step.
        create_s: The seconds for one more endpoint.
    """
    import serve_bridge as serve
    from serve_bridge.instance.operations import Operation
    from serve_bridge.specs import DeclaredEndpoint

    patient = serve.HTTPOptions(port=0, keep_alive_timeout_s=IDLE_LIMIT_S, max_connections=2 * IDLE)
    client: Any = serve.start(http_options=patient)
    config = serve.BackendConfig(num_replicas=replicas, max_concurrent_queries=IN_FLIGHT)
    serve.create_backend("noop", noop, config=config, ray_actor_options={"num_cpus": 0})
    declared = [DeclaredEndpoint(f"noop-{n}", "noop", f"/noop/{n}", ("GET",)) for n in range(endpoints - 1)]
    began = perf_counter()
    link_of(client).operate(Operation.DECLARE_ENDPOINTS, declared, [])
    middle = perf_counter()
    serve.create_endpoint("noop", backend="noop", route=f"/noop/{endpoints - 1}")
    return {
        "url": client.http_urls[0].rstrip("/") + "/noop/",
        "address": client.address,
        "declare_s": middle - began,
        "create_s": perf_counter() - middle,
    }


def measure(trial: Trial) -> None:
    """Measure the row once."""
    for arrangement in trial.ordered(ARRANGEMENTS):
        if trial.wants(arrangement.point):
            with trial.attempt(arrangement.point):
                _measure_arrangement(trial, arrangement)
    _measure_beside(trial)


def _measure_beside(trial: Trial) -> None:
    """Measure calling processes and idle connections on one instance of the smallest arrangement."""
    callers = {point: count for point, count in CALLING.items() if trial.wants(point)}
    wanted = [*callers, *filter(trial.wants, (IDLING,))]
    if not wanted:
        return
    with trial.attempt(wanted[0]):
        arranged = _arrange(trial, BASE)
        for point, count in trial.ordered(list(callers.items())):
            with trial.attempt(point):
                _measure_callers(trial, arranged["address"], point, count)
        if IDLING in wanted:
            with trial.attempt(IDLING):
                _measure_idle(trial, arranged["url"])


def _arrange(trial: Trial, arrangement: Arrangement) -> Any:
    return trial.instances.arrange(start, replicas=arrangement.replicas, endpoints=arrangement.endpoints)


def _measure_arrangement(trial: Trial, arrangement: Arrangement) -> None:
    arranged = _arrange(trial, arrangement)
    url, count = arranged["url"], arrangement.endpoints
    trial.load(
        arrangement.point,
        trial.instances.serving_pids,
        lambda seconds: web_load.load(url, arrangement.connections, seconds, endpoints=count),
    )
    if arrangement.endpoints > 1:
        trial.read(arrangement.point, declare_ms=arranged["declare_s"] * 1e3, create_ms=arranged["create_s"] * 1e3)


# calling processes


def _measure_callers(trial: Trial, address: str, point: str, count: int) -> None:
    with _callers(address, count) as callers, ThreadPoolExecutor(count) as pool:

        def load(seconds: float) -> Timing:
            return together(list(pool.map(lambda caller: caller.load("call", 1, seconds), callers)))

        trial.load(point, lambda: trial.instances.serving_pids().union(*(c.serving_pids() for c in callers)), load)


@contextmanager
def _callers(address: str, count: int) -> Iterator[Sequence[Stage]]:
    entry, environment = CALLERS["bridge-caller"], {"SERVE_BRIDGE_ADDRESS": address}
    callers: list[Stage] = []
    with ThreadPoolExecutor(4) as pool:
        try:
            list(pool.map(lambda _: callers.append(Stage(entry, environment)), range(count)))
            yield callers
        finally:
            list(pool.map(Stage.stop, callers))


def together(timings: Sequence[Timing]) -> Timing:
    """Combine the figures of concurrent loads: the median of their medians, and the worst 99th percentile."""
    return Timing(
        requests=sum(timing.requests for timing in timings),
        seconds=max(timing.seconds for timing in timings),
        p50_ms=median(timing.p50_ms or 0.0 for timing in timings),
        p99_ms=max(timing.p99_ms or 0.0 for timing in timings),
        errors=sum(timing.errors for timing in timings),
    )


# idle connections


def _measure_idle(trial: Trial, url: str) -> None:
    pids = trial.instances.serving_pids
    web_load.load(
        url, CONNECTIONS, trial.warm_seconds, endpoints=1
    )  # the processes now have the memory for the load itself
    before = _resident_bytes(pids())
    with _idle_connections(url + "0", IDLE):
        added = _resident_bytes(pids()) - before
        load = trial.load(IDLING, pids, lambda s: web_load.load(url, CONNECTIONS, s, endpoints=1))
    trial.read(load.point, connection_kib=added / IDLE / 1024)


def _resident_bytes(pids: Iterable[int]) -> int:
    found = 0
    for pid in pids:
        with suppress(psutil.Error):
            found += psutil.Process(pid).memory_info().rss
    return found


@contextmanager
def _idle_connections(url: str, count: int) -> Iterator[None]:
    command = [sys.executable, "-m", "benchmarks.load.idle_connections", url, str(count)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=web_load.REPOSITORY,
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stderr is not None
        try:
            if holder.stdout.readline().strip() != str(count):
                raise web_load.WebLoadError(holder.stderr.read()[-500:] or f"{count} idle connections were not reached")
            yield
        finally:
            holder.stdin.close()
