"""Row 6: an endpoint beside another endpoint on the same proxy with ten times the load of its capacity.

Rule 1: the overloaded endpoint only waits, and its rate is low. So the endpoints share proxy, queues and connections,
    but hardly any CPU. The proxy refuses nine of ten of its requests at once.
Rule 2: both loops are open, so that slow answers slow down neither client. The client of the overloaded endpoint is a
    process of its own, and uses a few hundredths of a core.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

from benchmarks import BODY
from benchmarks.contenders.bridge import noop
from benchmarks.contenders.contender import IN_FLIGHT
from benchmarks.load import web_load
from benchmarks.load.calls import Timing
from benchmarks.trial import Trial

IDLE: Final = "beside-idle"
SATURATED: Final = "beside-saturated"
SERVICE_S: Final = 0.1
AT_ONCE: Final = 4
LINE: Final = 16
OFFERED: Final = 10 * AT_ONCE / SERVICE_S
"""Requests a second for the overloaded endpoint."""
CONNECTIONS: Final = 64
"""Number of connections. It is above `AT_ONCE + LINE`, so that a connection is free for the next refused request."""
RATE: Final = 500.0
"""Requests a second for the measured endpoint, about a fortieth of its capacity."""
LEAD_S: Final = 0.5
"""Seconds of overload before the measurement, which fill the queue, and seconds of overload after it."""


async def wait(request: object) -> bytes:
    """Wait without using CPU."""
    await asyncio.sleep(SERVICE_S)
    return BODY


def start() -> str:
    """Start an instance with both endpoints and one proxy, and return its URL."""
    import serve_bridge as serve

    client: Any = serve.start(http_options={"port": 0})
    limits = serve.BackendConfig(max_concurrent_queries=AT_ONCE, max_queued_queries=LINE)
    wide = serve.BackendConfig(max_concurrent_queries=IN_FLIGHT)
    for name, handler, config in (("busy", wait, limits), ("noop", noop, wide)):
        serve.create_backend(name, handler, config=config, ray_actor_options={"num_cpus": 0})
        serve.create_endpoint(name, backend=name, route=f"/{name}")
    return str(client.http_urls[0]).rstrip("/")


def measure(trial: Trial) -> None:
    """Measure one endpoint while the other is idle, and while the other is overloaded."""
    points = [point for point in trial.ordered((IDLE, SATURATED)) if trial.wants(point)]
    if not points:
        return
    with trial.attempt(points[0]):
        url = trial.instances.arrange(start)
        for point in points:
            with trial.attempt(point):
                (_measure_idle if point == IDLE else _measure_saturated)(trial, url)


def _measure_idle(trial: Trial, url: str) -> None:
    trial.load(IDLE, trial.instances.serving_pids, lambda seconds: _load(url, seconds))


def _measure_saturated(trial: Trial, url: str) -> None:
    offers: list[Timing] = []

    def load(seconds: float) -> Timing:
        with _overload(url, seconds) as offered:
            timing = _load(url, seconds)
        offers.append(offered.result())
        return timing

    trial.load(SATURATED, trial.instances.serving_pids, load)
    refused = [offered.errors / (offered.requests + offered.errors) for offered in offers]
    trial.read(SATURATED, refused_share=min(refused))


def _load(url: str, seconds: float) -> Timing:
    return web_load.open_loop(f"{url}/noop", CONNECTIONS, seconds, RATE)


@contextmanager
def _overload(url: str, seconds: float) -> Iterator[Future[Timing]]:
    """Overload the busy endpoint, from `LEAD_S` before the code inside until `LEAD_S` after it."""
    with ThreadPoolExecutor(1) as pool:
        offered = pool.submit(web_load.open_loop, f"{url}/busy", CONNECTIONS, seconds + 2 * LEAD_S, OFFERED)
        time.sleep(LEAD_S)
        yield offered
