"""Row 7: a batched model with a fixed time per batch, and the share of its ideal throughput that callers reach.

The ideal is a loop over the model with full batches, in a process without any requests. Its sleep is the model's own
sleep on this machine, so a late timer slows both sides alike.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

from benchmarks import BODY
from benchmarks.contenders.bridge import ENDPOINT
from benchmarks.contenders.contender import IN_FLIGHT
from benchmarks.contenders.entries import CALLERS
from benchmarks.contenders.stage import Stage
from benchmarks.load import web_load
from benchmarks.trial import Trial
from serve_bridge import accept_batch

BATCH_S: Final = 0.005
SIZES: Final = (8, 32)


@dataclass(frozen=True, slots=True)
class Case:
    """One load on the model with batches of *size*. A full batch is always queued while the model runs another."""

    kind: str
    size: int

    @property
    def point(self) -> str:
        """Key of the point."""
        return f"batch-{self.kind}-{self.size}"

    @property
    def in_flight(self) -> int:
        """Number of concurrent callers."""
        return 4 * self.size


CASES: Final = tuple(Case(kind, size) for size in SIZES for kind in ("http", "acall"))


@accept_batch
def model(requests: Sequence[object]) -> list[bytes]:
    """Sleep for the fixed time of a batch."""
    time.sleep(BATCH_S)
    return [BODY] * len(requests)


def start() -> dict[str, str]:
    """Start an instance with one batched backend per size. Return its address, and its URL without a size."""
    import serve_bridge as serve

    client: Any = serve.start(http_options={"port": 0})
    for size in SIZES:
        config = serve.BackendConfig(
            max_concurrent_queries=IN_FLIGHT, max_batch_size=size, batch_wait_timeout=2 * BATCH_S
        )
        serve.create_backend(f"batch-{size}", model, config=config, ray_actor_options={"num_cpus": 0})
        serve.create_endpoint(f"batch-{size}", backend=f"batch-{size}", route=f"/batch-{size}")
    return {"url": client.http_urls[0].rstrip("/") + "/batch-", "address": client.address}


def ideal(size: int, seconds: float) -> float:
    """Return the requests a second of a loop over full batches."""
    requests: list[object] = [None] * size
    batches = 0
    began = perf_counter()
    while (now := perf_counter()) < began + seconds:
        model(requests)
        batches += 1
    return batches * size / (now - began)


def measure(trial: Trial) -> None:
    """Measure the row once."""
    cases = [case for case in trial.ordered(CASES) if trial.wants(case.point)]
    if not cases:
        return
    with trial.attempt(cases[0].point):
        arranged = trial.instances.arrange(start)
        for case in cases:
            with trial.attempt(case.point):
                _measure_case(trial, case, arranged["url"], arranged["address"])


def _measure_case(trial: Trial, case: Case, url: str, address: str) -> None:
    best = ideal(case.size, trial.warm_seconds)
    pids = trial.instances.serving_pids
    if case.kind == "http":
        url = f"{url}{case.size}"
        found = trial.load(case.point, pids, lambda s: web_load.load(url, case.in_flight, s))
    else:
        caller = Stage(CALLERS["bridge-caller"], {"SERVE_BRIDGE_ADDRESS": address, ENDPOINT: f"batch-{case.size}"})
        try:
            found = trial.load(
                case.point,
                lambda: pids() | caller.serving_pids(),
                lambda seconds: caller.load("acall", case.in_flight, seconds),
            )
        finally:
            caller.stop()
    trial.read(case.point, ideal_per_s=best, share_of_ideal=found.requests_per_s / best)
