"""An instance on two nodes and a web host, each with files, processes and a network of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from serve_bridge import proxies
from tests.nodes.conftest import LOGGED_IN, Cluster, Running, start_instance
from tests.nodes.hosts import Host

pytestmark = [pytest.mark.nodes, pytest.mark.ray, pytest.mark.timeout(300)]

CUT_S = 22.0
"""More than TCP's own limit for a silent peer (`transport.SILENCE_S`)."""
PAUSE_S = 12.0
"""More than a proxy may be silent (`proxies.SILENT_S`)."""

BACKENDS = """
    import os
    import socket

    import serve_bridge as serve

    FAR = {"num_cpus": 0, "resources": {"worker": 1}}

    async def where(request):
        return socket.gethostname()

    class Caller:
        def __init__(self, handle):
            self.handle = handle

        def __call__(self, request):
            return [self.handle.call(), serve.connect().get_handle("where").call(), socket.gethostname()]

    client.create_backend("where", where, ray_actor_options=FAR)
    client.create_endpoint("where", backend="where", route="/where")
    client.create_backend("caller", Caller, client.get_handle("where"), ray_actor_options=FAR)
    client.create_endpoint("caller", backend="caller", route="/caller")
"""


@pytest.fixture(scope="module")
def running(cluster: Cluster) -> Iterator[Running]:
    """An instance with a proxy on each node, and a backend on the second one."""
    running = start_instance(cluster, cluster.head, "--location", "EveryNode")
    running.manage(BACKENDS)
    yield running
    status, printed = running.host.command("shutdown", "--address", running.address, environment=LOGGED_IN)
    assert status == 0, printed


def test_an_instance_starts_on_the_node_of_its_start_each_time(cluster: Cluster) -> None:
    """Ray alone would place the controller on either node."""
    for _ in range(4):
        running = start_instance(cluster, cluster.head, "--name", "again", "--port", "0")
        found = json.loads(cluster.head.path(running.address).read_text())
        assert found["controller"][2][0] == cluster.head.address
        assert cluster.head.command("shutdown", "--name", "again", environment=LOGGED_IN)[0] == 0


def test_a_replica_on_another_node_calls_back(running: Running) -> None:
    """By a handle that its constructor got, and by `connect`; that node has no file of the instance."""
    answer = running.manage("print(json.dumps(client.get_handle('caller').call()))")
    assert json.loads(answer) == ["worker"] * 3


def test_a_web_host_without_ray_calls_with_a_copied_file(running: Running) -> None:
    """Nothing else of the instance is there."""
    program = """
        import sys
        import serve_bridge as serve
        print(serve.connect(sys.argv[1]).get_handle("caller").call(), "ray" in sys.modules)
    """
    assert running.cluster.web.python(program, running.web_address) == "['worker', 'worker', 'worker'] False\n"


def serving_processes(cluster: Cluster) -> list[int]:
    """Return the proxies and replicas of both nodes."""
    hosts = (cluster.head, cluster.worker)
    return sorted(p.pid for host in hosts for kind in ("ReplicaActor", "ProxyActor") for p in host.processes(kind))


def answer_from(host: Host) -> str:
    """Return what the proxy of *host* answers there, or why it does not."""
    program = """
        import urllib.request
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            print(opener.open("http://127.0.0.1:8000/where", timeout=5).read().decode())
        except OSError as error:
            print(error)
    """
    return host.python(program).strip()


def settled(running: Running) -> str:
    """Return the states of all replicas, once the controller reaches all of them again."""
    program = """
        def states():
            return {s for backend in client.status()["backends"].values() for s in backend["replicas"].values()}

        ends = time.monotonic() + 60
        while states() != {"ready"} and time.monotonic() < ends:
            time.sleep(0.1)
        print(*states())
    """
    return running.manage(program).strip()


def test_a_cut_between_two_nodes_ends_nothing(running: Running) -> None:
    """Those behind the cut serve their own side meanwhile, and both sides once the link is back."""
    cluster = running.cluster
    before = serving_processes(cluster)
    with cluster.worker.cut_off():
        time.sleep(CUT_S)
        assert answer_from(cluster.worker) == "worker"
    assert settled(running) == "ready"
    assert (serving_processes(cluster), answer_from(cluster.head)) == (before, "worker")


def test_a_pause_of_rays_control_plane_ends_nothing(running: Running) -> None:
    """Proxies and replicas are asked over the data plane whether they live."""
    cluster = running.cluster
    before = serving_processes(cluster)
    (gcs,) = cluster.head.processes("gcs_server")
    gcs.suspend()
    try:
        time.sleep(PAUSE_S)
        assert answer_from(cluster.head) == "worker"
    finally:
        gcs.resume()
    assert settled(running) == "ready"
    time.sleep(proxies.WATCH_S * 2)  # the looks that follow the pause
    assert serving_processes(cluster) == before
