"""A controller whose node has gone comes back on another one, and all that knew it find it there."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.nodes.conftest import LOGGED_IN, RUNTIME_DIRECTORY, Cluster, Running, fast_cluster, start_instance
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.nodes, pytest.mark.ray, pytest.mark.timeout(400)]

SETUP = """
    import socket

    async def where(request):
        return socket.gethostname()

    client.create_backend("where", where, ray_actor_options={"num_cpus": 0, "resources": {"head": 1}})
    client.create_endpoint("where", backend="where", route="/where")
"""

LONG_LIVED = """
    import sys
    import serve_bridge as serve
    client = serve.connect(sys.argv[1])
    handle = client.get_handle("where")
    for line in sys.stdin:
        word = line.strip()
        try:
            print(handle.call() if word == "call" else sorted(client.list_backends()), flush=True)
        except serve.ServeBridgeError as error:
            print(type(error).__name__, error, flush=True)
"""


NEXT = """
    import sys
    import serve_bridge as serve
    print(sorted(serve.connect(sys.argv[1]).list_backends()))
"""


@pytest.fixture(scope="module")
def moved() -> Iterator[tuple[Running, list[str]]]:
    """An instance that was started on the second node, which then vanished; and what a web worker saw of that."""
    with fast_cluster() as cluster:
        yield move(cluster)


def move(cluster: Cluster) -> tuple[Running, list[str]]:
    """Let the node of the controller vanish; return the instance, and the answers that a web worker then got."""
    running = start_instance(cluster, cluster.worker, "--location", "EveryNode")
    running.manage(SETUP)
    wait_until(lambda: len(json.loads(running.manage("print(json.dumps(client.http_urls))"))) == 2)
    with cluster.web.start_python(LONG_LIVED, running.web_address) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None

        def ask(word: str) -> str:
            worker.stdin.write(f"{word}\n")
            worker.stdin.flush()
            return worker.stdout.readline().strip()

        seen = [ask("call"), ask("list")]
        address_file = cluster.web.path(running.web_address)
        before = address_file.read_text()
        cluster.worker.vanish()
        seen.append(ask("call"))
        wait_until(lambda: ask("list") == "['where']", timeout_s=90)
        seen.append(ask("call"))
        wait_until(lambda: address_file.read_text() != before)
        worker.stdin.close()
    # Here, not in its test: another test ends the instance, and their order is random.
    seen.append(cluster.web.python(NEXT, running.web_address).strip())
    return running, seen


def test_a_web_worker_finds_the_controller_again(moved: tuple[Running, list[str]]) -> None:
    """It asks replicas and proxies; its requests have not noticed."""
    _, seen = moved
    assert seen[:4] == ["head", "['where']", "head", "head"]


def test_the_next_web_worker_finds_it_by_the_copied_file(moved: tuple[Running, list[str]]) -> None:
    """The first one has corrected that."""
    _, seen = moved
    assert seen[4] == "['where']"


def test_the_new_node_has_a_file_by_which_all_is_ended(moved: tuple[Running, list[str]]) -> None:
    """`serve-bridge shutdown` leaves no process and no file."""
    running, _ = moved
    head = running.cluster.head
    assert head.command("status", environment=LOGGED_IN)[0] == 0
    assert head.command("shutdown", environment=LOGGED_IN)[0] == 0
    wait_until(lambda: not head.processes("ReplicaActor") and not head.processes("ProxyActor"))
    assert [path.name for path in head.path(f"{RUNTIME_DIRECTORY}/serve_bridge").iterdir()] == []
