"""A cluster of several nodes: proxies follow them, and the data plane crosses between them over TCP."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs import run_program

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(sys.platform != "linux", reason="needs a second loopback address for a second node"),
]

PROGRAM = """
    import json, os, sys
    from dataclasses import replace
    from pathlib import Path

    # Ray notes its clusters there, and this one is nobody else's.
    os.environ["RAY_TMPDIR"] = sys.argv[1]

    import httpx
    import ray
    from ray.cluster_utils import Cluster

    import serve_bridge as serve
    from serve_bridge.client.client import link_of
    from serve_bridge.config.http_options import HTTPOptions
    from serve_bridge.controller.controller import Controller
    from serve_bridge.instance.directories import base_directory
    from serve_bridge.instance.instance import new_generation
    from serve_bridge.process.loop_thread import LoopThread
    from serve_bridge.runtimes.ray.runtime import RayRuntime
    from serve_bridge.specs import InstanceSpec
    from serve_bridge.wire.keys import Key
    from tests.behaviour.support import backends
    from tests.support.waiting import wait_until, wait_until_equal

    HEAD, SECOND = "127.0.0.1", "127.0.0.2"
    thread = LoopThread("serve_bridge-controller")

    class OneMachine(RayRuntime):
        # Both nodes are this machine, where one address and port can be listened on once: each node gets its own.
        async def launch_proxy(self, spec, key):
            host = HEAD if spec.node == self._own_node else SECOND
            return await super().launch_proxy(replace(spec, http=replace(spec.http, host=host)), key)

        async def end(self):
            thread.stop()

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)

    def add_node():
        return cluster.add_node(num_cpus=1, node_ip_address=SECOND, resources={"second": 1})

    generation = new_generation()
    spec = InstanceSpec(
        name="nodes",
        generation=generation,
        runtime="ray",
        directory=str(base_directory() / f"nodes-{generation}"),
        detached=True,
        tcp_host=ray.util.get_node_ip_address(),
        http=HTTPOptions(port=0, location="EveryNode"),
    )
    controller = Controller(spec, Key(), OneMachine(spec))
    client = serve.connect(thread.submit(controller.start).result(60).address)

    said = {}

    def hosts():
        return sorted(httpx.URL(url).host for url in client.http_urls)

    said["at first"] = hosts()
    node = add_node()
    wait_until(lambda: len(hosts()) == 2)
    said["with a second node"] = hosts()

    client.create_backend("b", backends.version_1, ray_actor_options={"num_cpus": 0, "resources": {"second": 1}})
    client.create_endpoint("e", backend="b", route="/e")
    said["ports"] = len({httpx.URL(url).port for url in client.http_urls})
    said["over HTTP"] = [httpx.get(url + "/e", trust_env=False).text for url in client.http_urls]

    # From here on no unix socket can be found, as on another machine.
    for path in Path(spec.directory).glob("*.sock"):
        path.unlink()
    elsewhere = Path(sys.argv[1]) / "elsewhere.json"
    elsewhere.touch(0o600)
    elsewhere.write_bytes(Path(client.address).read_bytes())
    client.close()
    client = serve.connect(str(elsewhere))
    said["over TCP"] = client.get_handle("e").call()
    (replica,) = [a for a in link_of(client)._here().channel().router.table.backends["b"].replicas]
    said["replica"] = replica.tcp[0]

    cluster.remove_node(node)
    wait_until_equal(hosts, [HEAD])
    said["without it"] = hosts()
    add_node()
    wait_until(lambda: len(hosts()) == 2)
    said["with another"] = hosts()

    client.shutdown()
    thread.join(10)
    said["left"] = ray.util.list_named_actors(all_namespaces=True)
    ray.shutdown()
    cluster.shutdown()
    print(json.dumps(said))
"""

HEAD, SECOND = "127.0.0.1", "127.0.0.2"


@pytest.fixture(scope="module")
def said(runtime_directory: Path) -> dict[str, Any]:
    """What a program found that started a cluster, added a node, and took it away again."""
    if "CI" not in os.environ:
        pytest.importorskip("ray")
    directory = runtime_directory / "nodes"
    directory.mkdir()
    found: dict[str, Any] = json.loads(run_program(PROGRAM, str(directory), limit_s=110).splitlines()[-1])
    return found


def test_a_node_that_joins_gets_a_proxy(said: dict[str, Any]) -> None:
    """On the port that the first one has."""
    assert (said["at first"], said["with a second node"], said["ports"]) == ([HEAD], [HEAD, SECOND], 1)


def test_every_proxy_serves_every_replica(said: dict[str, Any]) -> None:
    """Wherever it runs."""
    assert said["over HTTP"] == ["v1", "v1"]


def test_a_proxy_goes_with_its_node(said: dict[str, Any]) -> None:
    """And the next node gets one again."""
    assert (said["without it"], said["with another"]) == ([HEAD], [HEAD, SECOND])


def test_a_call_reaches_a_replica_on_another_node(said: dict[str, Any]) -> None:
    """Over TCP, at that node's address; the controller is reached so too."""
    assert (said["over TCP"], said["replica"]) == ("v1", SECOND)


def test_nothing_is_left_on_the_cluster(said: dict[str, Any]) -> None:
    """After the shutdown."""
    assert said["left"] == []
