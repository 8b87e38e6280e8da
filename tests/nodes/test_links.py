"""Nodes that join and leave, and links that are cut and slowed, under load from the web host."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence

import pytest

from tests.faults.report.figures import note_run
from tests.faults.support.load import WAYS
from tests.faults.support.oracle import summary
from tests.nodes.conftest import FAST, LOGGED_IN, Running, fast_cluster, start_instance, start_worker
from tests.nodes.support.load import HostLoad
from tests.support.waiting import wait_until, wait_until_equal

pytestmark = [pytest.mark.nodes, pytest.mark.ray, pytest.mark.timeout(300)]
LONG = pytest.mark.skipif("NODES_ALL" not in os.environ, reason="takes long; `make nodes` runs it")

CUT_S = 3.0
"""Less than the time after which this Ray gives up a node."""
LONG_CUT_S = 8.0
"""More than the deadline of each request."""
SETTLED_S = 3.0
"""The last seconds of a long cut. By then each router has given up the hosts behind it."""

CALLS = [way for way in WAYS if "call" in way]
OVER_HTTP = [way for way in WAYS if "call" not in way]

BACKENDS = """
    from tests.faults.support.backends import Recorder

    def serve_on(node, count):
        options = {"num_cpus": 0, "resources": {node: 1}}
        config = {"num_replicas": count, "health_check_period_s": 0.5, "health_check_timeout_s": 2.0}
        client.create_backend(node, Recorder, "/tmp/journal", config=config, ray_actor_options=options)
        client.create_endpoint(node, backend=node, route=f"/{node}", methods=["GET", "POST"])

    serve_on("head", 2)
    serve_on("worker", 1)
"""

PAIR = """
    from tests.faults.support.backends import Recorder

    options = {"num_cpus": 0, "resources": {"worker": 5}}  # each node has room for one
    client.create_backend("pair", Recorder, "/tmp/journal", config={"num_replicas": 2}, ray_actor_options=options)
    client.create_endpoint("pair", backend="pair", route="/pair", methods=["GET", "POST"])
"""


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """An instance with a proxy on each node, and a backend on each."""
    with fast_cluster() as cluster:
        running = start_instance(cluster, cluster.head, "--location", "EveryNode")
        running.manage(BACKENDS)
        wait_until_equal(lambda: len(urls(running)), 2, 60)
        yield running
        status, printed = running.host.command("shutdown", "--address", running.address, environment=LOGGED_IN)
        assert status == 0, printed


def urls(running: Running) -> list[str]:
    """Return the base URLs of all proxies."""
    found: list[str] = json.loads(running.manage("print(json.dumps(client.http_urls))"))
    return found


def load_on(running: Running, endpoint: str, ways: Sequence[str] = WAYS) -> HostLoad:
    """Load *endpoint* from the web host, through the proxy of the head and by handles."""
    cluster = running.cluster
    return HostLoad(cluster.web, running.web_address, f"http://{cluster.head.address}:8000", endpoint, ways=ways)


def test_a_node_joins_and_vanishes_without_a_lost_request(running: Running) -> None:
    """It gets a proxy that serves, and is then forgotten; the other nodes do not notice."""
    cluster = running.cluster
    with load_on(running, "head") as load:
        late = cluster.switch.add("late")
        late.start_ray(f"--address={cluster.head.address}:6379", environment=FAST)
        url = f"http://{late.address}:8000"
        wait_until(lambda: url in urls(running), 60)
        program = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=10).status)"
        wait_until_equal(lambda: cluster.web.python(program, f"{url}/-/live").strip(), "200")
        late.vanish()
        wait_until(lambda: url not in urls(running), 60)
        addresses = "print(*(node['address'] for node in client.status()['nodes'].values()))"
        wait_until(lambda: late.address not in running.manage(addresses).split(), 60)
        load.wait_for_more(40)
    run = load.checked(cluster.head)
    assert run.failed() == [], summary(run.outcomes)


@pytest.mark.parametrize("endpoint", ["head", pytest.param("worker", marks=LONG)])
def test_a_cut_web_host_loses_only_what_was_on_the_link(running: Running, endpoint: str) -> None:
    """After the repair its requests are answered again, without a command. None starts after its deadline.

    Another web host does not notice. The proxy cannot know when a client over HTTP has given up, so these requests may
    start late.
    """
    cluster = running.cluster
    address = cluster.copy_address(running.address, cluster.head, "/tmp/copied.json", on=cluster.worker)
    others = HostLoad(cluster.worker, address, f"http://{cluster.head.address}:8000", endpoint)
    with load_on(running, endpoint, CALLS) as calls, load_on(running, endpoint, OVER_HTTP) as clients, others:
        calls.wait_for_more(40)
        begin = time.monotonic()
        with cluster.web.cut_off():
            time.sleep(LONG_CUT_S)
        end = time.monotonic()
        calls.wait_for_answers(end, 80)
        clients.wait_for_answers(end, 40)
    runs = [calls.checked(cluster.head, cluster.worker), clients.checked(cluster.head, cluster.worker, is_late=True)]
    for run in runs:
        first = min(o.done for o in run.outcomes if o.ok and o.sent > end)
        refused = [o for o in run.failed() if (o.status, o.executed) == (503, "no")]  # the queue is full for a moment
        lost = [o for o in run.failed() if o not in refused and (o.done < begin or o.sent > first)]
        assert lost == [], summary(run.outcomes)
        note_run(run, cuts=1)
    run = others.checked(cluster.head, cluster.worker)
    assert run.failed() == [], summary(run.outcomes)


@LONG
def test_a_cut_between_nodes_loses_only_what_needs_the_link(running: Running) -> None:
    """Requests for the replicas on the head go on; the others are answered again after the repair."""
    cluster = running.cluster
    with load_on(running, "worker") as far, load_on(running, "head") as near:
        far.wait_for_more(40)
        with cluster.worker.cut_off():
            time.sleep(CUT_S)
        far.wait_for_answers(time.monotonic(), 80)
    run = near.checked(cluster.head)
    assert run.failed() == [], summary(run.outcomes)
    run = far.checked(cluster.worker)
    assert {(o.status, o.executed) for o in run.failed()} <= {
        (502, "unknown"),
        (503, "no"),
        (504, "no"),
        (504, "unknown"),
    }


@LONG
def test_a_cut_between_two_workers_leaves_each_proxy_the_replicas_that_it_reaches(running: Running) -> None:
    """A cut link loses only what was on it, and afterwards the proxy uses both replicas again."""
    cluster = running.cluster
    second = cluster.switch.add("second")
    start_worker(cluster, second)
    running.manage(PAIR)
    url = f"http://{cluster.worker.address}:8000"

    def replicas(after: float) -> set[str]:
        return {o.replica for o in load.outcomes() if o.ok and o.sent > after}

    with HostLoad(cluster.web, running.web_address, url, "pair", ways=OVER_HTTP) as load:
        wait_until(lambda: len(replicas(0.0)) == 2)
        begin = time.monotonic()
        with cluster.switch.cut_between(cluster.worker, second):
            time.sleep(LONG_CUT_S)
            silent = time.monotonic() - SETTLED_S
            assert len(replicas(silent)) == 1
        end = time.monotonic()
        wait_until(lambda: len(replicas(end)) == 2)
    run = load.checked(cluster.worker, second)
    note_run(run, cuts=1)
    unexplained = [o for o in run.failed() if o.executed != "unknown" or not begin - 1 < o.sent < silent]
    assert unexplained == [], summary(run.outcomes)


@LONG
def test_a_slow_link_loses_nothing(running: Running) -> None:
    """Requests take longer, but none of them is lost, and no replica is given up."""
    cluster = running.cluster
    with load_on(running, "worker") as load:
        load.wait_for_more(40)
        with cluster.worker.slowed():
            load.wait_for_more(80)
        load.wait_for_more(40)
    run = load.checked(cluster.head, cluster.worker)
    assert run.failed() == [], summary(run.outcomes)


def test_a_killed_proxy_on_another_node_keeps_its_port(running: Running) -> None:
    """The keeper there is an actor. New connections wait in the queue for the next proxy."""
    worker = running.cluster.worker
    wait_until(lambda: worker.processes("PortKeeperActor"), 60)
    url = f"http://{worker.address}:8000"
    load = HostLoad(running.cluster.web, running.web_address, url, "worker", ways=("get-anew", "post-anew"))
    with load:
        load.wait_for_more(40)
        (proxy,) = worker.processes("ProxyActor")
        proxy.kill()
        wait_until(lambda: not proxy.is_running())
        end = time.monotonic()
        load.wait_for_answers(end, 80)
    run = load.checked(worker)
    assert [o for o in run.failed() if o.sent > end] == [], summary(run.outcomes)
