"""Ray's control plane is killed under load: it returns, because its state is in Redis, or it has gone for good."""

from __future__ import annotations

import os

import pytest

from tests.faults.report.figures import note_run
from tests.faults.support.oracle import summary
from tests.nodes.conftest import (
    LOGGED_IN,
    RECORDERS,
    Cluster,
    Running,
    cluster_with_redis,
    fast_cluster,
    start_head,
    start_instance,
    start_worker,
    wait_for_proxies,
)
from tests.nodes.support.load import HostLoad
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.nodes,
    pytest.mark.ray,
    pytest.mark.timeout(300),
    pytest.mark.skipif("NODES_ALL" not in os.environ, reason="takes long; `make nodes` runs it"),
]

CHANGE = """
    begin = time.monotonic()
    try:
        client.set_traffic("m", {"m": 1.0})
    except serve.ControlPlaneLost as error:
        print("lost:", error, time.monotonic() - begin)
    else:
        print("changed")
"""

ANSWER = """
    try:
        print(client.get_handle("m").call(b"x", id="again")["id"])
    except serve.BackendOverloaded:  # its replicas start
        print()
"""


def changed(running: Running) -> str:
    """Try a change; return how it went."""
    return running.manage(CHANGE).strip()


def refused_shutdown(running: Running) -> str:
    """Return what `serve-bridge shutdown` says, which fails and changes nothing."""
    status, printed = running.host.ask(
        "sh", "-c", 'exec "$@" 2>&1', "sh", *running.host.program("shutdown"), environment=LOGGED_IN
    )
    assert status == 1, printed
    return printed


def load_on(cluster: Cluster, running: Running) -> HostLoad:
    """Load the replicas on the other node from the web host."""
    return HostLoad(cluster.web, running.web_address, f"http://{cluster.worker.address}:8000", "m")


def test_a_killed_control_plane_that_returns_costs_no_request() -> None:
    """Until then a change and `shutdown` end with an error that names it. Then the same change works."""
    with cluster_with_redis() as (running, _):
        cluster = running.cluster
        (gcs,) = cluster.head.processes("gcs_server")
        command, environment = gcs.cmdline(), gcs.environ()
        with load_on(cluster, running) as load:
            load.wait_for_more(40)
            gcs.kill()
            assert "control plane (GCS)" in changed(running)
            assert "run `ray stop` on each node" in refused_shutdown(running)
            load.wait_for_more(200)
            again = cluster.head.start(*command, environment=environment)
            wait_until(lambda: changed(running) == "changed", 60)
            load.wait_for_more(40)
        run = load.checked(cluster.worker)
        assert running.host.command("shutdown", environment=LOGGED_IN)[0] == 0
    again.communicate()  # it has ended with its host
    note_run(run, **{"kills of the control plane": 1})
    assert run.failed() == [], summary(run.outcomes)


def test_a_control_plane_that_has_gone_for_good_leaves_a_way_out() -> None:
    """`ray stop` on each node, then `serve-bridge shutdown`. The next start restores all."""
    with fast_cluster() as cluster:
        running = start_instance(cluster, cluster.head, "--location", "EveryNode")
        running.manage(RECORDERS)
        wait_for_proxies(running, 2)
        with load_on(cluster, running) as load:
            load.wait_for_more(40)
            (gcs,) = cluster.head.processes("gcs_server")
            gcs.kill()
            assert "run `ray stop` on each node" in refused_shutdown(running)
            load.wait_for_more(40)
        run = load.checked(cluster.worker)
        assert run.failed() == [], summary(run.outcomes)
        for host in (cluster.head, cluster.worker):
            host.stop_ray()
        status, printed = cluster.head.command("shutdown", environment=LOGGED_IN)
        assert (status, printed) == (0, "instance default had ended already; its files are removed\n")
        assert not cluster.head.path(running.address).exists()
        start_head(cluster.head)
        start_worker(cluster, cluster.worker)
        again = start_instance(cluster, cluster.head, "--location", "EveryNode")
        wait_until(lambda: again.manage(ANSWER).strip() == "again", 60)
