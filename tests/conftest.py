"""What the tests share: one Ray cluster a run, one instance a module and runtime, and proof that nothing is left."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from hypothesis import HealthCheck, settings

import serve_bridge as serve
from tests.support.abandoned_threads import ABANDONED
from tests.support.effort import FULL, QUICK, SEED
from tests.support.runtimes import surplus
from tests.support.schedule import turn
from tests.support.serving import Serving
from tests.support.waiting import wait_until_equal

# A busy machine is slow now and then, which says nothing of the code.
settings.register_profile("full", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fast", settings.get_profile("full"), max_examples=20)
settings.register_profile("quick", settings.get_profile("fast"), derandomize=True)  # see `effort`
settings.load_profile("full" if FULL else "quick" if QUICK else "fast")

CPUS = 8
ACCELERATORS = 4
"""What the cluster has of a resource that stands for GPUs."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Let the order of the tests in a quick run come from its seed too."""
    if QUICK and config.getoption("randomly_seed", None) == "default":
        config.option.randomly_seed = SEED


def pytest_report_header() -> str:
    """Say what makes the inputs of the fuzz tests again, and the sample and the order of a quick run."""
    return f"FUZZ_SEED={SEED} EFFORT={os.environ.get('EFFORT', '')}"


_numbers = itertools.count()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests on Ray that this run can do without, and order the files. All workers have the same seeds."""
    left_out = surplus(items)
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = sorted((item for item in items if item not in left_out), key=turn)


@pytest.fixture(scope="session", autouse=True)
def runtime_directory() -> Iterator[Path]:
    """The directory in which this run's instances are found; short, since sockets are in it. Nothing stays there."""
    directory = Path(tempfile.mkdtemp(prefix="sb-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(directory))
        patch.setenv("XDG_STATE_HOME", str(directory / "state"))
        patch.delenv("SERVE_BRIDGE_ADDRESS", raising=False)
        patch.delenv("SERVE_BRIDGE_KEY_FILE", raising=False)
        # Ray's default is 15: where cores are few, workers then wait for half a second while anything else runs.
        patch.setenv("RAY_worker_niceness", "0")
        yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def nothing_left(runtime_directory: Path) -> Iterator[None]:
    """After the last test no file, thread or process of an instance is there."""
    yield
    wait_until_equal(lambda: _files(runtime_directory / "serve_bridge"), [])
    wait_until_equal(_threads, [])
    wait_until_equal(_processes, [])


def _files(directory: Path) -> list[Path]:
    return list(directory.rglob("*")) if directory.exists() else []


def _threads() -> list[str]:
    """Return the name and the calls of each thread that is left."""
    left = set(threading.enumerate()) - ABANDONED
    calls = sys._current_frames()
    return [
        "".join([thread.name, "\n", *traceback.format_stack(calls.get(thread.ident or 0))])
        for thread in left
        if thread.name.startswith("serve_bridge")
    ]


def _processes() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


@pytest.fixture(scope="session")
def ray_cluster(runtime_directory: Path, nothing_left: None) -> Iterator[Any]:
    """A Ray cluster of this run's own; after the last test no actor of ours is on it."""
    if "CI" not in os.environ:
        pytest.importorskip("ray")
    import ray

    ray.init(
        address="local",
        num_cpus=CPUS,
        resources={"accelerator": ACCELERATORS},
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        _temp_dir=str(runtime_directory / "ray"),
    )
    yield ray
    try:
        wait_until_equal(lambda: ray.util.list_named_actors(all_namespaces=True), [])
    finally:
        ray.shutdown()


@pytest.fixture(scope="module", params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def runtime(request: pytest.FixtureRequest) -> str:
    """Each runtime in turn: what is tested with it holds on both."""
    if request.param == "ray":
        request.getfixturevalue("ray_cluster")
    return str(request.param)


@pytest.fixture
def names() -> Callable[[str], str]:
    """Makes a name that nothing else in this run has."""
    return lambda kind: f"{kind}-{next(_numbers)}"


@pytest.fixture(scope="module")
def client(runtime: str) -> Iterator[serve.Client]:
    """A running instance; every test of a module has the same one."""
    client = serve.start(runtime=runtime, name=f"shared-{next(_numbers)}", http_options={"port": 0})
    yield client
    client.shutdown()


@pytest.fixture
def start(runtime: str) -> Iterator[Callable[..., serve.Client]]:
    """Starts an instance that ends with the test, on a free port unless the test says otherwise."""
    started: list[serve.Client] = []

    def start(**options: Any) -> serve.Client:
        given = {"runtime": runtime, "name": f"own-{next(_numbers)}", "http_options": {"port": 0}, **options}
        started.append(serve.start(**given))
        return started[-1]

    yield start
    for client in started:
        client.shutdown()


@pytest.fixture(scope="module")
def http(client: serve.Client) -> Iterator[httpx.Client]:
    """An HTTP client of the shared instance's proxy."""
    with httpx.Client(base_url=client.http_urls[0], trust_env=False, timeout=30) as http:
        yield http


@pytest.fixture
def serving(client: serve.Client) -> Iterator[Serving]:
    """Puts code behind an endpoint of the shared instance for the time of one test."""
    serving = Serving(client, _numbers)
    yield serving
    serving.end()


@pytest.fixture(scope="module")
def module_serving(client: serve.Client) -> Iterator[Serving]:
    """As `serving`, for all tests of a module."""
    serving = Serving(client, _numbers)
    yield serving
    serving.end()
