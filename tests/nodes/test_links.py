"""Nodes that join and leave, and links that are cut and slowed, under load from the web host."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from textwrap import dedent

import pytest

from tests.faults.report.figures import note_run
from tests.faults.support.load import WAYS
from tests.faults.support.oracle import events_in, summary
from tests.nodes.conftest import FAST, LOGGED_IN, Running, fast_cluster, start_instance, start_worker
from tests.nodes.support.hosts import Host
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
FAILURES = {(502, "unknown"), (503, "no"), (504, "no"), (504, "unknown")}
"""How requests for the other side of a cut link fail."""

ADDRESSES = "print(*(node['address'] for node in client.status()['nodes'].values()))"
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

WAITING = """
    from tests.faults.support.backends import Waiting

    options = {"num_cpus": 0, "resources": {"worker": 1}}
    config = {"num_replicas": 1, "max_concurrent_queries": 1, "max_queued_queries": 2}
    client.create_backend(sys.argv[2], Waiting, sys.argv[3], "/tmp/gate", config=config, ray_actor_options=options)
    client.create_endpoint(sys.argv[2], backend=sys.argv[2], route=f"/{sys.argv[2]}", timeout_s=float(sys.argv[4]))
"""
"""Arguments: a name for a backend that does one request at a time, its journal, and the timeout in seconds."""

AWAY = """
    from tests.faults.support.backends import Recorder

    options = {"num_cpus": 0, "resources": {"away": 1}}
    config = {"num_replicas": 1, "health_check_period_s": 0.5, "health_check_timeout_s": 2.0}
    client.create_backend("away", Recorder, "/tmp/journal", config=config, ray_actor_options=options)
    client.create_endpoint("away", backend="away", route="/away", methods=["GET", "POST"])
"""

WEB_WORKER = """
    import sys, threading
    import uvicorn
    from serve_bridge.adapters.starlette.extension import ServeBridge

    options = {"host": "127.0.0.1", "port": 8001, "log_level": "error"}
    threading.Thread(target=uvicorn.run, args=[ServeBridge()], kwargs=options, daemon=True).start()
    sys.stdin.read()
"""
"""It ends with its standard input."""

VISITORS = """
    import sys
    from concurrent.futures import ThreadPoolExecutor, as_completed
    import httpx

    def visit(number):
        return httpx.get(f"http://127.0.0.1:8001/{sys.argv[1]}?id={number}", timeout=60, trust_env=False).status_code

    with ThreadPoolExecutor(8) as threads:
        for done in as_completed([threads.submit(visit, number) for number in range(8)]):
            print(done.result(), flush=True)
"""
"""Eight requests at the same time. Each status is a line, as soon as it is known."""


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


def notes(host: Host, journal: str) -> set[str]:
    """Return the kinds of events in *journal* on *host*."""
    path = host.path(journal)
    return {event.event for event in events_in(path)} if path.exists() else set()


def begin_away(running: Running, away: Host) -> None:
    """Let *away* join the cluster, with a short limit for its raylet to reach Ray's control plane again."""
    environment = {**FAST, "RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
    away.start_ray(f"--address={running.cluster.head.address}:6379", '--resources={"away": 8}', environment=environment)


def status(web: Host, endpoint: str) -> str:
    """Return the status of an answer of the web worker on *web*; 0 before it listens."""
    program = """
        import sys
        import httpx
        try:
            print(httpx.get(f"http://127.0.0.1:8001/{sys.argv[1]}?id=first", timeout=60, trust_env=False).status_code)
        except httpx.TransportError:
            print(0)
    """
    return web.python(program, endpoint).strip()


@contextlib.contextmanager
def web_worker(host: Host, address: str) -> Iterator[None]:
    """A uvicorn on *host* with the routes of the instance."""
    server = host.start(sys.executable, "-c", dedent(WEB_WORKER), environment={"SERVE_BRIDGE_ADDRESS": address})
    try:
        yield
    finally:
        server.communicate(timeout=60)


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
        wait_until(lambda: late.address not in running.manage(ADDRESSES).split(), 60)
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
def test_replicas_cancel_the_requests_of_a_lost_web_host(running: Running) -> None:
    """The kernel closes the connection, long before the request's own deadline."""
    cluster = running.cluster
    running.manage(WAITING, "held", "/tmp/held", "600")
    lost = cluster.switch.add("lost")
    address = cluster.copy_address(running.address, cluster.head, "/tmp/lost.json", on=lost)
    program = """
        import sys
        import serve_bridge as serve
        serve.connect(sys.argv[1]).get_handle("held").call(id="1")
    """
    with lost.start_python(program, address):
        wait_until(lambda: "start" in notes(cluster.worker, "/tmp/held"))
        lost.vanish()
        wait_until(lambda: "cancelled" in notes(cluster.worker, "/tmp/held"), 60)


@LONG
def test_a_full_queue_answers_503_while_the_link_is_cut(running: Running) -> None:
    """Eight requests come during the cut: the link loses one, two wait until their deadline, and five are refused."""
    cluster = running.cluster
    running.manage(WAITING, "full", "/tmp/full", "4")
    gate = cluster.worker.path("/tmp/gate")
    gate.touch()
    with web_worker(cluster.web, running.web_address):
        wait_until(lambda: status(cluster.web, "full") == "200", 60)
        gate.unlink()
        with cluster.web.cut_off():
            answers = cluster.web.python(VISITORS, "full").split()
    assert answers[:5] == ["503"] * 5
    assert set(answers[5:]) <= {"502", "504"}


@LONG
def test_a_cut_after_which_ray_ends_a_node_needs_only_its_start(running: Running) -> None:
    """The controller forgets the node, whose processes run on until the repair. One `ray start` brings it back."""
    cluster = running.cluster
    away = cluster.switch.add("away")
    begin_away(running, away)
    running.manage(AWAY)
    url = f"http://{away.address}:8000"
    wait_until(lambda: url in urls(running), 60)
    with load_on(running, "head") as near, load_on(running, "away", CALLS) as far:
        far.wait_for_answers(0.0, 40)
        with away.cut_off():
            wait_until(lambda: url not in urls(running), 60)
            wait_until(lambda: away.address not in running.manage(ADDRESSES).split(), 60)
            assert away.processes("ProxyActor")  # Ray does not know there
        wait_until(lambda: not away.processes("raylet") and not away.processes("Actor"), 60)
        begin_away(running, away)
        wait_until(lambda: url in urls(running), 60)
        far.wait_for_answers(time.monotonic(), 80)
        near.wait_for_more(40)
    run = near.checked(cluster.head)
    assert run.failed() == [], summary(run.outcomes)
    run = far.checked(away)
    assert {(o.status, o.executed) for o in run.failed()} <= FAILURES, summary(run.outcomes)


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
    assert {(o.status, o.executed) for o in run.failed()} <= FAILURES


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
