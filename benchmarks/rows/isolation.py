"""Row 6: what an endpoint notices of another on the same proxy that is offered ten times what it can bear.

Rule 1: the other's work is to wait, and its rate is low: cores are not what the two have to share, but proxy, lines
    and connections. Nine of ten of its requests are refused, by the proxy and at once.
Rule 2: both loops are open, so that neither client slows down with the answers; the refused one costs its client, in
    a process of its own, a few hundredths of a core.
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
"""Requests a second that the busy endpoint is offered."""
CONNECTIONS: Final = 64
"""Above `AT_ONCE + LINE`, so that one is always free for who will be refused."""
RATE: Final = 500.0
"""Requests a second that the other endpoint is offered: about a fortieth of what it could bear alone."""
LEAD_S: Final = 0.5
"""Until the line is full, before; and as long after."""


async def wait(request: object) -> bytes:
    """Be slow without work."""
    await asyncio.sleep(SERVICE_S)
    return BODY


def start() -> str:
    """Start an instance with both endpoints and one proxy; return its URL."""
    import serve_bridge as serve

    client: Any = serve.start(http_options={"port": 0})
    limits = {"max_concurrent_queries": AT_ONCE, "max_queued_queries": LINE}
    for name, handler, config in (("busy", wait, limits), ("noop", noop, {"max_concurrent_queries": IN_FLIGHT})):
        serve.create_backend(name, handler, config=config, ray_actor_options={"num_cpus": 0})
        serve.create_endpoint(name, backend=name, route=f"/{name}")
    return str(client.http_urls[0]).rstrip("/")


def measure(trial: Trial) -> None:
    """Measure one endpoint with the other at rest, and with it overloaded."""
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
    """Offer the busy endpoint too much, from a moment before until a moment after what is done inside."""
    with ThreadPoolExecutor(1) as pool:
        offered = pool.submit(web_load.open_loop, f"{url}/busy", CONNECTIONS, seconds + 2 * LEAD_S, OFFERED)
        time.sleep(LEAD_S)
        yield offered
