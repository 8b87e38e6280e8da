"""Three hosts: two Ray nodes and one for web workers, which has a copy of the instance's file and no Ray."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pytest

from tests.nodes.support.hosts import Host, Switch, why_not
from tests.support.waiting import wait_until


@dataclass(frozen=True)
class Cluster:
    """The hosts.

    Attributes:
        switch: What joins them.
        head: The Ray node with Ray's own control plane.
        worker: A Ray node on which this user has never logged in: nothing can be made in /run there.
        web: A host without Ray.
    """

    switch: Switch
    head: Host
    worker: Host
    web: Host

    def copy_address(self, path: str, host: Host, to: str, *, mode: int = 0o600, on: Host | None = None) -> str:
        """Copy the instance's file at *path* of *host* to *to* on the web host, or *on* another one; return *to*."""
        target = (on or self.web).path(to)
        target.touch()
        target.chmod(mode)
        target.write_bytes(host.path(path).read_bytes())
        return to


RUNTIME_DIRECTORY = "/run/user/0"
LOGGED_IN = {"XDG_RUNTIME_DIR": RUNTIME_DIRECTORY}
FAST = {
    **LOGGED_IN,
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
"""The environment of a Ray that soon notices that a node has gone."""
RECORDERS = """
    from tests.faults.support.backends import Recorder

    options = {"num_cpus": 0, "resources": {"worker": 1}}
    config = {"num_replicas": 2, "health_check_period_s": 0.5, "health_check_timeout_s": 2.0}
    client.create_backend("m", Recorder, "/tmp/journal", config=config, ray_actor_options=options)
    client.create_endpoint("m", backend="m", route="/m", methods=["GET", "POST"], timeout_s=4.0)
"""
"""A program for `Running.manage`: the endpoint "m", whose two replicas on the worker note each request there."""


@dataclass(frozen=True)
class Running:
    """An instance that `serve-bridge start` began.

    Attributes:
        cluster: Its hosts.
        host: Where it was started.
        address: Its address on that host.
        web_address: The copy on the web host.
    """

    cluster: Cluster
    host: Host
    address: str
    web_address: str

    @property
    def environment(self) -> dict[str, str]:
        """The environment of commands on that host."""
        return {} if self.host is self.cluster.worker else LOGGED_IN

    def manage(self, program: str, *arguments: str) -> str:
        """Run *program* on the host where it was started, with a `client`; return what it prints."""
        begin = "import json, sys, time\nimport serve_bridge as serve\nclient = serve.connect(sys.argv[1])\n"
        return self.host.python(begin + dedent(program), self.address, *arguments, environment=self.environment)


def start_instance(cluster: Cluster, host: Host, *words: str) -> Running:
    """Start an instance by the command line on *host*."""
    environment = {} if host is cluster.worker else LOGGED_IN
    status, printed = host.command("start", "--host", "0.0.0.0", *words, environment=environment)
    assert status == 0, printed
    address = next(line.split()[1] for line in printed.splitlines() if line.startswith("address"))
    return Running(cluster, host, address, cluster.copy_address(address, host, f"/tmp/{Path(address).name}"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three hosts that end with the module."""
    with hosts() as switch:
        yield begin(switch)


@contextlib.contextmanager
def fast_cluster() -> Iterator[Cluster]:
    """Hosts of which Ray notices within seconds that one has vanished."""
    with hosts() as switch:
        yield begin(switch, FAST)


@contextlib.contextmanager
def hosts() -> Iterator[Switch]:
    """A switch whose hosts end with the block; where none can be made the test is skipped."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    if "CI" not in os.environ:
        pytest.importorskip("ray")
    switch = Switch()
    try:
        yield switch
    finally:
        switch.close()


def begin(switch: Switch, environment: Mapping[str, str] = LOGGED_IN) -> Cluster:
    """Return the hosts, with a Ray cluster on two of them."""
    cluster = Cluster(switch, *(switch.add(name) for name in ("head", "worker", "web")))
    cluster.worker.succeed("mount", "-o", "remount,ro", "/run")
    start_head(cluster.head, environment)
    start_worker(cluster, cluster.worker, environment)
    return cluster


def start_head(head: Host, environment: Mapping[str, str] = FAST, *, store: str = "") -> None:
    """Start Ray's control plane on *head*, with its state in the Redis at *store*, or in its own memory."""
    head.path(RUNTIME_DIRECTORY).mkdir(parents=True, mode=0o700, exist_ok=True)
    words = ("--head", "--port=6379", '--resources={"head": 8}', "--include-dashboard=false")
    redis = {"RAY_REDIS_ADDRESS": f"{store}:6379", "RAY_external_storage_namespace": "one"} if store else {}
    head.start_ray(*words, environment={**environment, **redis})


def start_worker(cluster: Cluster, worker: Host, environment: Mapping[str, str] = FAST) -> None:
    """Let *worker* join the cluster."""
    worker.start_ray(f"--address={cluster.head.address}:6379", '--resources={"worker": 8}', environment=environment)


@contextlib.contextmanager
def cluster_with_redis() -> Iterator[tuple[Running, Host]]:
    """An instance with `RECORDERS` and two proxies, whose cluster has its state in Redis; and the host of Redis."""
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server")
    with hosts() as switch:
        head, worker, web, store = (switch.add(name) for name in ("head", "worker", "web", "store"))
        redis = store.start("redis-server", "--bind", store.address, "--protected-mode", "no", "--save", "")
        cluster = Cluster(switch, head, worker, web)
        start_head(head, store=store.address)
        start_worker(cluster, worker)
        running = start_instance(cluster, head, "--location", "EveryNode")
        running.manage(RECORDERS)
        wait_for_proxies(running, 2)
        yield running, store
    redis.communicate()  # it has ended with its host


def wait_for_proxies(running: Running, count: int) -> None:
    """Wait until *count* nodes have a proxy."""
    wait_until(lambda: len(json.loads(running.manage("print(json.dumps(client.http_urls))"))) == count, 90)
