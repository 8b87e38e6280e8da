"""A head node that loses power and boots again, while Ray keeps its control plane's state in Redis on another host."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator

import pytest

from tests.faults.support.oracle import summary
from tests.nodes.conftest import FAST, RUNTIME_DIRECTORY, Cluster, Running, hosts, start_instance
from tests.nodes.support.hosts import Host
from tests.nodes.support.load import HostLoad
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.nodes,
    pytest.mark.ray,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server"),
    pytest.mark.skipif("NODES_ALL" not in os.environ, reason="takes long; `make nodes` runs it"),
]

SETUP = """
    from tests.faults.support.backends import Recorder

    options = {"num_cpus": 0, "resources": {"worker": 1}}
    config = {"num_replicas": 2, "health_check_period_s": 0.5, "health_check_timeout_s": 2.0}
    client.create_backend("m", Recorder, "/tmp/journal", config=config, ray_actor_options=options)
    client.create_endpoint("m", backend="m", route="/m", methods=["GET", "POST"])
"""


@pytest.fixture
def rebootable() -> Iterator[tuple[Running, Host]]:
    """An instance whose controller is on the head, and whose replicas are on the other node; and the host of Redis."""
    with hosts() as switch:
        head, worker, web, store = (switch.add(name) for name in ("head", "worker", "web", "store"))
        redis = store.start("redis-server", "--bind", store.address, "--protected-mode", "no", "--save", "")
        cluster = Cluster(switch, head, worker, web)
        start_head(head, store.address)
        worker.start_ray(f"--address={head.address}:6379", '--resources={"worker": 8}', environment=FAST)
        running = start_instance(cluster, head, "--location", "EveryNode")
        running.manage(SETUP)
        yield running, store
    redis.communicate()  # it has ended with its host


def start_head(head: Host, store: str) -> None:
    """Start Ray's control plane on *head*, with its state at *store*."""
    head.path(RUNTIME_DIRECTORY).mkdir(parents=True, mode=0o700)
    words = ("--head", "--port=6379", '--resources={"head": 8}', "--include-dashboard=false")
    redis = {"RAY_REDIS_ADDRESS": f"{store}:6379", "RAY_external_storage_namespace": "one"}
    head.start_ray(*words, environment={**FAST, **redis})


def test_a_head_that_reboots_costs_no_request(rebootable: tuple[Running, Host]) -> None:
    """The other node serves all the time. Afterwards the instance can be managed again, without a command for it."""
    running, store = rebootable
    cluster = running.cluster
    url = f"http://{cluster.worker.address}:8000"
    program = """
        import sys
        import serve_bridge as serve
        try:
            print(*serve.connect(sys.argv[1]).list_backends())
        except serve.ServeBridgeError:
            print()
    """
    wait_until(lambda: len(json.loads(running.manage("print(json.dumps(client.http_urls))"))) == 2, 60)
    with HostLoad(cluster.web, running.web_address, url, "m") as load:
        load.wait_for_more(40)
        cluster.head.vanish()
        load.wait_for_more(200)
        again = cluster.switch.add("head", instead_of=cluster.head)
        start_head(again, store.address)
        wait_until(lambda: cluster.web.python(program, running.web_address).strip() == "m", 90)
        load.wait_for_more(40)
    run = load.checked(cluster.worker)
    assert run.failed() == [], summary(run.outcomes)
