"""Row 9: with Ray running, the time from the start of serving to the first answer, and the time for one more replica.

Rule 1: each start has a cluster and a process of its own, so that no contender uses workers of another contender.
Rule 2: imports and the connection to Ray come before the clock starts. The clock stops at the first good answer to a
    GET.
"""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar, Final

from benchmarks.contenders.bridge import noop
from benchmarks.contenders.contender import IN_FLIGHT, Contender, Entry, OnRay, free_port, start_ray
from benchmarks.contenders.entries import OURS, haproxy_environment
from benchmarks.contenders.stage import Stage
from benchmarks.load import web_load
from benchmarks.trial import Trial

FIRST: Final = "first-answer"
MORE: Final = "one-replica-more"
STARTERS: Final = (
    Entry(OURS, "serve_bridge", "benchmarks.rows.starts:BridgeStart"),
    Entry("ray-serve", "Ray Serve, defaults", "benchmarks.rows.starts:RayServeStart"),
    Entry(
        "ray-serve-haproxy",
        "Ray Serve, HAProxy mode",
        "benchmarks.rows.starts:RayServeStart",
        environment=haproxy_environment,
    ),
)


class BridgeStart(OnRay):
    """A process in a stage that connects to Ray, and later starts serve_bridge."""

    config: ClassVar[dict[str, Any]] = {"max_concurrent_queries": IN_FLIGHT}

    def start(self, directory: Path) -> None:
        """Start the cluster, and import the package before the clock starts."""
        import serve_bridge  # noqa: F401  # before the clock starts

        super().start(directory)

    def first_answer(self) -> float:
        """Return the seconds from `serve.start()` to the first answer."""
        import serve_bridge as serve

        began = perf_counter()
        client: Any = serve.start(http_options={"port": 0})
        serve.create_backend("noop", noop, config=serve.BackendConfig(**self.config), ray_actor_options={"num_cpus": 0})
        serve.create_endpoint("noop", backend="noop", route="/noop")
        web_load.wait_until_answering(client.http_urls[0].rstrip("/") + "/noop")
        return perf_counter() - began

    def one_more(self) -> float:
        """Return the seconds until a second replica is ready."""
        import serve_bridge as serve

        began = perf_counter()
        serve.update_backend_config("noop", {"num_replicas": 2})
        return perf_counter() - began


class RayServeStart(Contender):
    """A process in a stage that connects to Ray, and later starts Ray Serve."""

    def start(self, directory: Path) -> None:
        """Start the cluster, and import the package before the clock starts."""
        import benchmarks.contenders.peers  # noqa: F401  # before the clock starts

        start_ray(directory)

    def first_answer(self) -> float:
        """Return the seconds from `serve.start()` to the first answer."""
        from ray import serve

        port = free_port()
        began = perf_counter()
        quiet = {"enable_access_log": False}
        serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config=quiet)
        self._run(replicas=1)
        web_load.wait_until_answering(f"http://127.0.0.1:{port}/noop")
        return perf_counter() - began

    def one_more(self) -> float:
        """Return the seconds until a second replica is ready."""
        began = perf_counter()
        self._run(replicas=2)
        return perf_counter() - began

    def _run(self, replicas: int) -> None:
        from ray import serve

        from benchmarks.contenders.peers import Noop

        deployment: Any = serve.deployment(
            max_ongoing_requests=IN_FLIGHT,
            ray_actor_options={"num_cpus": 0},
            logging_config={"enable_access_log": False},
            num_replicas=replicas,
        )(Noop)
        serve.run(deployment.bind(), name="noop", route_prefix="/noop")

    def stop(self) -> None:
        """End the cluster, and Ray Serve with it."""
        import ray

        ray.shutdown()


def measure(trial: Trial) -> None:
    """Measure the starts once."""
    for entry in trial.ordered(STARTERS):
        if trial.wants(FIRST, entry.name):
            with trial.attempt(FIRST, entry.name):
                _measure_start(trial, entry)


def _measure_start(trial: Trial, entry: Entry) -> None:
    stage = Stage(entry)
    try:
        trial.read(FIRST, entry.name, start_s=float(stage.ask("first_answer", limit_s=180)))
        if trial.wants(MORE, entry.name):
            trial.read(MORE, entry.name, start_s=float(stage.ask("one_more", limit_s=180)))
    finally:
        stage.stop()
