"""Row 7: a batched model that costs the same time whatever the batch's size, and how much of it callers get.

The ideal is a loop that calls the model with full batches, in a process that does nothing else: it knows no requests
at all. It sleeps as long as the model's own sleep lasts on this machine, so a late timer favours nobody.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from benchmarks import web_load
from benchmarks.calls import Calls
from benchmarks.contenders import CALLERS, ENDPOINT, IN_FLIGHT, Caller, Entry
from benchmarks.sites import BODY
from benchmarks.stage import Stage
from benchmarks.trial import Trial
from serve_bridge import accept_batch

BATCH_S: Final = 0.005
SIZES: Final = (8, 32)
_BATCHES: Final = Entry("batches", "serve_bridge", "benchmarks.batches:Batches")


@dataclass(frozen=True, slots=True)
class Case:
    """One load on the model with batches of *size*; a full batch always waits while another is worked on."""

    kind: str
    size: int

    @property
    def point(self) -> str:
        """Key of the point."""
        return f"batch-{self.kind}-{self.size}"

    @property
    def in_flight(self) -> int:
        """Callers at once."""
        return 4 * self.size


CASES: Final = tuple(Case(kind, size) for size in SIZES for kind in ("http", "acall"))


@accept_batch
def model(requests: Sequence[object]) -> list[bytes]:
    """Take a fixed time for a batch."""
    time.sleep(BATCH_S)
    return [BODY] * len(requests)


class Batches:
    """An instance with a batched backend for each size. Lives in a stage."""

    calls: Calls | None = None
    caller: Caller | None = None

    def __init__(self) -> None:
        self.url: str | None = None
        self._address = ""

    def start(self, directory: Path) -> None:
        """Start a cluster, an instance and the backends."""
        import serve_bridge as serve
        from benchmarks.peers import start_ray

        start_ray(directory)
        client: Any = serve.start(http_options={"port": 0})
        for size in SIZES:
            config = {"max_concurrent_queries": IN_FLIGHT, "max_batch_size": size, "batch_wait_timeout": 2 * BATCH_S}
            serve.create_backend(f"batch-{size}", model, config=config, ray_actor_options={"num_cpus": 0})
            serve.create_endpoint(f"batch-{size}", backend=f"batch-{size}", route=f"/batch-{size}")
        self.url = client.http_urls[0].rstrip("/") + "/batch-"
        self._address = client.address

    def address(self) -> str:
        """Return where callers connect."""
        return self._address

    def ideal(self, size: int, seconds: float) -> float:
        """Return the requests a second of full batches one after another."""
        requests: list[object] = [None] * size
        batches = 0
        began = perf_counter()
        while (now := perf_counter()) < began + seconds:
            model(requests)
            batches += 1
        return batches * size / (now - began)

    def stop(self) -> None:
        """Shut the instance down, then the cluster."""
        import ray

        import serve_bridge as serve

        serve.shutdown()
        ray.shutdown()


def measure(trial: Trial) -> None:
    """Measure the row once."""
    with trial.attempt(CASES[0].point):
        stage = Stage(_BATCHES)
        try:
            for case in trial.ordered(CASES):
                if trial.wants(case.point):
                    with trial.attempt(case.point):
                        _measure_case(trial, stage, case)
        finally:
            stage.stop()


def _measure_case(trial: Trial, stage: Stage, case: Case) -> None:
    ideal = float(stage.ask("ideal", size=case.size, seconds=trial.warm_seconds))
    if case.kind == "http":
        url = f"{stage.url}{case.size}"
        found = trial.load(case.point, stage.serving_pids, lambda s: web_load.load(url, case.in_flight, s))
    else:
        environment = {"SERVE_BRIDGE_ADDRESS": str(stage.ask("address")), ENDPOINT: f"batch-{case.size}"}
        caller = Stage(CALLERS["bridge-caller"], environment)

        def pids() -> Collection[int]:
            return stage.serving_pids() | caller.serving_pids()

        try:
            found = trial.load(case.point, pids, lambda s: caller.load("acall", case.in_flight, s))
        finally:
            caller.stop()
    trial.read(case.point, ideal_per_s=ideal, share_of_ideal=found.requests_per_s / ideal)
