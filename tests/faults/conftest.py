"""What the fault tests share: an instance on real Ray that is theirs to break, and its processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

import serve_bridge as serve
from tests.faults.report.figures import VARIABLE, note, note_run
from tests.faults.support.backends import Recorder
from tests.faults.support.capacity import measure
from tests.faults.support.counts import SCALE
from tests.faults.support.load import WAYS, Load
from tests.faults.support.oracle import Event, Run, events_in, summary, violations
from tests.support.waiting import wait_until

QUICK = {"health_check_period_s": 0.5, "health_check_timeout_s": 2.0, "graceful_shutdown_timeout_s": 5.0}
REQUEST_TIMEOUT_S = 8.0
LONG_ONLY = pytest.mark.skipif(SCALE <= 1, reason="takes long; `make faults` runs it")


def scaled(count: int) -> int:
    """Return *count* for a short run, more for a long one."""
    return max(1, round(count * SCALE))


@dataclass(frozen=True)
class Stage:
    """An instance, and the logs of what happens on it.

    Attributes:
        client: Of the instance.
        directory: For the logs.
        journal: What backends write.
    """

    client: serve.Client
    directory: Path
    journal: Path

    def serve(
        self,
        name: str,
        code: Any = Recorder,
        *args: Any,
        config: dict[str, Any] | None = None,
        ray_actor_options: dict[str, Any] | None = None,
    ) -> None:
        """Put *code* behind an endpoint of the same name; by default a `Recorder` of version 1."""
        given = args or (str(self.journal),)
        options = {**QUICK, **(config or {})}
        self.client.create_backend(name, code, *given, config=options, ray_actor_options=ray_actor_options)
        self.client.create_endpoint(name, backend=name, route=f"/{name}", methods=["GET", "POST"])

    def load(self, endpoint: str, *, name: str = "load", ways: Sequence[str] = WAYS, **options: float) -> Load:
        """Start to load *endpoint*; use it as a context manager."""
        return Load(self.client, endpoint, self.directory / name, ways=ways, **options)

    def events(self, event: str) -> list[Event]:
        """Return what backends have noted as *event* so far."""
        return [found for found in events_in(self.journal) if found.event == event]

    def read(self, *loads: Load, **faults: int) -> Run:
        """Return the run that is over, and note its figures and the number of *faults* of each kind."""
        run = Run.read(self.journal, *(load.log for load in loads))
        note_run(run, **faults)
        return run

    def ready(self, backend: str) -> list[str]:
        """Return the ids of the replicas of *backend* that take requests."""
        replicas = self.client.status()["backends"][backend]["replicas"]
        return [id for id, state in replicas.items() if state == "ready"]

    def wait_until_whole(self, backend: str) -> None:
        """Wait until *backend* has all its replicas. A crash loop delays them by up to 30 s."""
        wanted = self.client.get_backend_config(backend).num_replicas
        wait_until(lambda: len(self.ready(backend)) == wanted, 90.0)


def check(run: Run, updated: dict[str, float] | None = None, *, failed: int = 0) -> None:
    """Assert that every invariant holds and at most *failed* requests failed."""
    assert violations(run, updated) == {}
    assert len(run.failed()) <= failed, summary(run.outcomes)


@pytest.fixture(scope="module")
def instance(ray_cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[serve.Client]:
    """An instance on Ray for the tests of one module, theirs to break; no process of it is left after it.

    A report begins with its capacity, with which the times of the run compare.
    """
    client = serve.start(name="faults", http_options={"port": 0, "request_timeout_s": REQUEST_TIMEOUT_S})
    if VARIABLE in os.environ:
        note(0, measure(client, tmp_path_factory.mktemp("capacity")))
    yield client
    client.shutdown()
    wait_until(lambda: not actors())


@pytest.fixture
def stage(instance: serve.Client, tmp_path: Path) -> Iterator[Stage]:
    """The instance, and logs of one test's own; its endpoints and backends end with the test."""
    yield Stage(instance, tmp_path, tmp_path / "journal")
    for endpoint in instance.list_endpoints():
        instance.delete_endpoint(endpoint)
    for backend in instance.list_backends():
        instance.delete_backend(backend)


def actors(kind: str = "") -> list[psutil.Process]:
    """Return the processes of the engine's actors of this run: "Controller", "Replica", "Proxy", or all."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            title = " ".join(process.cmdline())
            ended = process.status() == psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue
        kinds = (kind,) if kind else ("Controller", "Replica", "Proxy")
        if not ended and any(title.startswith(f"ray::{kind}Actor") for kind in kinds):
            found.append(process)
    return found
