"""An instance on two nodes and a web host, each with files, processes and a network of its own."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from serve_bridge.controller import proxies
from tests.faults.report.figures import note_run
from tests.faults.support.counts import at_scale
from tests.faults.support.oracle import summary
from tests.nodes.conftest import LOGGED_IN, RUNTIME_DIRECTORY, Cluster, Running, start_instance
from tests.nodes.support.hosts import Host
from tests.nodes.support.load import HostLoad
from tests.support.certificates import make_tls
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.nodes, pytest.mark.ray, pytest.mark.timeout(300)]

CUT_S = 22.0
"""More than TCP's own limit for a silent peer (`wire.peer.TCP_SILENCE_S`)."""
PAUSE_S = at_scale(12, 60)
"""More than a proxy may be silent (`proxy_probes.END_AFTER_SILENCE_S`)."""

TLS_FILES = (("cert", "crt"), ("key", "key"), ("ca", "ca"))
"""Last word of each variable for TLS, and of the name of its file."""
STARTS = 5 if "NODES_ALL" in os.environ else 1
"""How often an instance is started on each node."""

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

LOADED = """
    from tests.faults.support.backends import Recorder

    options = {"num_cpus": 0, "resources": {"worker": 1}}
    client.create_backend("m", Recorder, "/tmp/journal", config={"num_replicas": 2}, ray_actor_options=options)
    client.create_endpoint("m", backend="m", route="/m", methods=["GET", "POST"])
"""


@pytest.fixture(scope="module")
def running(cluster: Cluster) -> Iterator[Running]:
    """An instance with a proxy on each node, and a backend on the second one."""
    running = start_instance(cluster, cluster.head, "--location", "EveryNode")
    running.manage(BACKENDS)
    running.manage(LOADED)
    yield running
    status, printed = running.host.command("shutdown", "--address", running.address, environment=LOGGED_IN)
    assert status == 0, printed


@pytest.mark.usefixtures("running")  # so that both nodes have directories of another instance
def test_an_instance_starts_on_the_node_of_its_start_each_time(cluster: Cluster) -> None:
    """Ray alone would place the controller on either node."""
    for host in [cluster.head, cluster.worker] * STARTS:
        running = start_instance(cluster, host, "--name", "again", "--port", "0")
        found = json.loads(host.path(running.address).read_text())
        assert found["controller"][2][0] == host.address
        assert host.command("shutdown", "--name", "again", environment=running.environment)[0] == 0


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


def test_doctor_finds_a_blocked_port_of_a_replica(running: Running) -> None:
    """On a web host that reaches the controller, and without a network to the node of the replicas."""
    web, worker = running.cluster.web, running.cluster.worker.address
    web.succeed("ip", "route", "add", "unreachable", worker)
    try:
        _, printed = web.command("doctor", "--address", running.web_address, "--format", "json")
    finally:
        web.succeed("ip", "route", "del", "unreachable", worker)
    found = [each["text"] for each in json.loads(printed)["findings"] if each["check"] == "ports"]
    assert any(text.startswith(f"a replica of backend 'where' at {worker}:") for text in found), found
    assert not any("the controller" in text for text in found)


def test_a_web_host_reaches_a_listening_instance_with_two_variables(cluster: Cluster) -> None:
    """It has no file of the instance but a key file. The ports on both nodes are those of the range."""
    running = start_instance(
        cluster,
        cluster.head,
        *("--name", "far", "--port", "0", "--location", "EveryNode"),
        *("--listen", f"{cluster.head.address}:7000", "--data-ports", "7001-7010"),
    )
    key = cluster.copy_address("/root/.local/state/serve_bridge/far/far.call.key", cluster.head, "/tmp/far.call.key")
    variables = {
        "SERVE_BRIDGE_ADDRESS": f"serve-bridge://{cluster.head.address}:7000/far",
        "SERVE_BRIDGE_KEY_FILE": key,
    }
    program = """
        import sys
        import serve_bridge as serve
        client = serve.connect()
        print(client.get_handle("caller", missing_ok=True).call(), "ray" in sys.modules)
        from serve_bridge.client.client import link_of
        print(sorted(each.tcp for each in link_of(client).routing_table().listeners()))
    """
    try:
        running.manage(BACKENDS)
        answer, ports = cluster.web.python(program, environment=variables).splitlines()
        assert answer == "['worker', 'worker', 'worker'] False"
        places = [(cluster.head.address, 7001), *((cluster.worker.address, port) for port in (7001, 7002, 7003))]
        assert ports == str(places)
    finally:
        cluster.head.command("shutdown", "--name", "far", environment=LOGGED_IN)


def test_a_web_host_reaches_an_instance_over_tls(cluster: Cluster, tmp_path: Path) -> None:
    """Its certificate allows calls only. All processes of both nodes use TLS; a web host without it is refused."""
    authority = trustme.CA()
    for name, hosts in (("engine", (cluster.head, cluster.worker)), ("call", (cluster.web,))):
        made = make_tls(tmp_path, name, authority, f"serve-bridge://tls/{name}")
        for host, file in ((host, file) for host in hosts for file in made[:3]):
            target = host.path(f"/tmp/{Path(file).name}")
            target.touch(mode=0o600)
            target.write_bytes(Path(file).read_bytes())
    running = start_instance(
        cluster,
        cluster.head,
        *("--name", "tls", "--port", "0", "--location", "EveryNode", "--listen", f"{cluster.head.address}:7100"),
        *("--tls-cert", "/tmp/engine.crt", "--tls-key", "/tmp/engine.key", "--tls-ca", "/tmp/engine.ca"),
    )
    key = cluster.copy_address("/root/.local/state/serve_bridge/tls/tls.call.key", cluster.head, "/tmp/tls.call.key")
    variables = {
        "SERVE_BRIDGE_ADDRESS": f"serve-bridge://{cluster.head.address}:7100/tls",
        "SERVE_BRIDGE_KEY_FILE": key,
    }
    tls = {f"SERVE_BRIDGE_TLS_{name.upper()}": f"/tmp/call.{kind}" for name, kind in TLS_FILES}
    program = """
        import serve_bridge as serve
        try:
            handle = serve.connect().get_handle("caller", missing_ok=True)
            print(handle.call())
        except serve.NotConnected as error:
            print(error)
    """
    try:
        running.manage(BACKENDS)
        assert cluster.web.python(program, environment={**variables, **tls}) == "['worker', 'worker', 'worker']\n"
        assert "the peer speaks TLS only" in cluster.web.python(program, environment=variables)
    finally:
        cluster.head.command("shutdown", "--name", "tls", environment=LOGGED_IN)


def test_replicas_are_placed_by_the_scheduling_strategies_of_ray(running: Running) -> None:
    """By a name that spreads them over the nodes, and by an object that names one node."""
    program = """
        import ray
        import socket

        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        async def where(request):
            return socket.gethostname()

        def hosts(name, count, strategy):
            options = {"num_cpus": 1, "scheduling_strategy": strategy}
            client.create_backend(name, where, config={"num_replicas": count}, ray_actor_options=options)
            client.create_endpoint(name, backend=name)
            found = {client.get_handle(name).call() for _ in range(40)}
            client.delete_endpoint(name)
            client.delete_backend(name)
            return sorted(found)

        ray.init(address="auto", log_to_driver=False, configure_logging=False)
        worker = next(node["NodeID"] for node in ray.nodes() if node["Resources"].get("worker"))
        near = NodeAffinitySchedulingStrategy(worker, soft=False)
        print(json.dumps([hosts("spread", 2, "SPREAD"), hosts("near", 2, near)]))
    """
    assert json.loads(running.manage(program).splitlines()[-1]) == [["head", "worker"], ["worker"]]


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
        states = "print(*{s for b in client.status()['backends'].values() for s in b['replicas'].values()})"
        assert running.manage(states).strip() == "unreachable"
    assert settled(running) == "ready"
    assert (serving_processes(cluster), answer_from(cluster.head)) == (before, "worker")


def test_a_pause_of_rays_control_plane_ends_nothing(running: Running) -> None:
    """No request is lost. Proxies and replicas are asked over the data plane whether they live."""
    cluster = running.cluster
    before = serving_processes(cluster)
    (gcs,) = cluster.head.processes("gcs_server")
    with HostLoad(cluster.web, running.web_address, f"http://{cluster.head.address}:8000", "m") as load:
        gcs.suspend()
        try:
            time.sleep(PAUSE_S)
            assert answer_from(cluster.head) == "worker"
        finally:
            gcs.resume()
        assert settled(running) == "ready"
        time.sleep(proxies.WATCH_S * 2)  # the looks that follow the pause
    assert serving_processes(cluster) == before
    run = load.checked(cluster.worker)
    note_run(run, **{f"pause of {PAUSE_S} s": 1})
    assert run.failed() == [], summary(run.outcomes)


def test_a_killed_controller_comes_back_and_adopts(running: Running) -> None:
    """A web worker that knew it manages the instance again; what served goes on."""
    cluster = running.cluster
    before = serving_processes(cluster)
    program = """
        import sys
        import time
        import serve_bridge as serve
        client = serve.connect(sys.argv[1])
        print(client.list_backends() != {}, flush=True)
        sys.stdin.readline()
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            try:
                print(client.list_backends() != {}, client.get_handle("where").call())
                break
            except serve.NotConnected:
                pass
    """
    with cluster.web.start_python(program, running.web_address) as web:
        assert web.stdin is not None
        assert web.stdout is not None
        assert web.stdout.readline() == "True\n"
        (controller,) = cluster.head.processes("ControllerActor")
        controller.kill()
        controller.wait()
        web.stdin.write("\n")
        web.stdin.flush()
        assert web.stdout.readline() == "True worker\n"
    assert settled(running) == "ready"
    assert serving_processes(cluster) == before


def test_status_shows_each_node_and_the_address_of_its_proxy(running: Running) -> None:
    """No client can use 0.0.0.0."""
    nodes = json.loads(running.manage("print(json.dumps(list(client.status()['nodes'].values())))"))
    hosts = (running.cluster.head, running.cluster.worker)
    assert nodes == [
        {"address": host.address, "proxy": f"http://{host.address}:8000", "failure": None} for host in hosts
    ]


def test_status_says_why_a_node_has_no_proxy(cluster: Cluster) -> None:
    """Until it has one."""
    with listening(cluster.worker, 8100):
        running = start_instance(cluster, cluster.head, "--name", "short", "--port", "8100", "--location", "EveryNode")
        try:
            failure = wait_until(lambda: node_of(running, cluster.worker)["failure"], timeout_s=60)
            assert "8100" in failure
        except BaseException:
            cluster.head.command("shutdown", "--name", "short", environment=LOGGED_IN)
            raise
    wait_until(lambda: node_of(running, cluster.worker)["proxy"] is not None, timeout_s=60)
    assert node_of(running, cluster.worker)["failure"] is None
    assert cluster.head.command("shutdown", "--name", "short", environment=LOGGED_IN)[0] == 0


def node_of(running: Running, host: Host) -> dict[str, Any]:
    """Return what `status` says of the node on *host*."""
    nodes: list[dict[str, Any]] = json.loads(
        running.manage("print(json.dumps(list(client.status()['nodes'].values())))")
    )
    return next(node for node in nodes if node["address"] == host.address)


@contextlib.contextmanager
def listening(host: Host, port: int) -> Iterator[None]:
    """Let a process of *host* have *port* for the time of the block."""
    program = """
        import socket, sys
        taken = socket.create_server(("0.0.0.0", int(sys.argv[1])))
        print("ready", flush=True)
        sys.stdin.read()
    """
    with host.start_python(program, str(port)) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
        process.stdin.close()


def test_a_start_that_fails_leaves_nothing(cluster: Cluster) -> None:
    """No actor, no key and no file, on either node; the name is free."""
    with listening(cluster.head, 8101):
        status, _ = cluster.head.command("start", "--name", "failed", "--port", "8101", environment=LOGGED_IN)
    assert status == 1
    program = """
        import ray
        ray.init(address="auto", log_to_driver=False, configure_logging=False)
        names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
        print([name for name in names if "failed" in name])
    """
    assert cluster.head.python(program, environment=LOGGED_IN).splitlines()[-1] == "[]"
    directories = [
        cluster.head.path(f"{RUNTIME_DIRECTORY}/serve_bridge"),
        *(host.path("/tmp/serve_bridge-0") for host in (cluster.head, cluster.worker)),
    ]
    found = [path.name for directory in directories if directory.exists() for path in directory.iterdir()]
    assert [name for name in found if name.startswith("failed")] == []
