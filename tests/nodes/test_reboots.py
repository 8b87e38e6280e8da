"""Nodes that lose power under load and boot again: a worker, and the head with and without Redis for Ray's state."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import dedent

import pytest

from tests.faults.report.figures import note, note_run
from tests.faults.support.counts import at_scale
from tests.faults.support.load import WAYS
from tests.faults.support.oracle import Outcome, summary
from tests.nodes.conftest import (
    RECORDERS,
    Cluster,
    Running,
    cluster_with_redis,
    hosts,
    start_head,
    start_instance,
    start_worker,
    wait_for_proxies,
)
from tests.nodes.support.hosts import Host
from tests.nodes.support.load import JOURNAL, HostLoad
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.nodes,
    pytest.mark.ray,
    pytest.mark.timeout(at_scale(300, 1500)),
    pytest.mark.skipif("NODES_ALL" not in os.environ, reason="takes long; `make nodes` runs it"),
]

WEB_WORKER = """
    import uvicorn
    from serve_bridge.adapters.starlette.extension import ServeBridge

    uvicorn.run(ServeBridge(), host="127.0.0.1", port=8001, log_level="error")
"""
CALLS = [way for way in WAYS if "call" in way]
OVER_HTTP = [way for way in WAYS if "call" not in way]
FAILURES = {(502, "unknown"), (503, "no"), (504, "no"), (504, "unknown")}
"""How a request for replicas fails whose only node has gone."""


def after(outcomes: Sequence[Outcome], end: float) -> float:
    """Return the seconds from *end* to the first answer after it."""
    return min(o.done for o in outcomes if o.ok and o.done > end) - end


def test_a_head_that_reboots_costs_no_request() -> None:
    """The other node serves all the time. Afterwards the instance can be managed again, without a command for it."""
    program = """
        import sys
        import serve_bridge as serve
        try:
            print(*serve.connect(sys.argv[1]).list_backends())
        except serve.ServeBridgeError:
            print()
    """
    with cluster_with_redis() as (running, store):
        cluster = running.cluster
        with HostLoad(cluster.web, running.web_address, f"http://{cluster.worker.address}:8000", "m") as load:
            load.wait_for_more(40)
            cluster.head.vanish()
            load.wait_for_more(200)
            again = cluster.switch.add("head", instead_of=cluster.head)
            start_head(again, store=store.address)
            booted = time.monotonic()
            wait_until(lambda: cluster.web.python(program, running.web_address).strip() == "m", 90)
            note(1, f"managed again {time.monotonic() - booted:.1f} s after the reboot of the head with Redis")
            load.wait_for_more(40)
        run = load.checked(cluster.worker)
    note_run(run, **{"reboots of the head with Redis": 1})
    assert run.failed() == [], summary(run.outcomes)


@contextlib.contextmanager
def listening_instance(disk: str) -> Iterator[tuple[Cluster, Running, dict[str, str]]]:
    """An instance whose head keeps the directory *disk*; and the variables by which the web host finds it."""
    with hosts() as switch:
        head, worker, web = switch.add("head", disk=disk), switch.add("worker"), switch.add("web")
        cluster = Cluster(switch, head, worker, web)
        start_head(head)
        start_worker(cluster, worker)
        running = start_instance(cluster, head, *words_of(head, disk))
        running.manage(RECORDERS)
        key = cluster.copy_address(f"{disk}/default.call.key", head, "/tmp/default.call.key")
        address = f"serve-bridge://{head.address}:7000/default"
        yield cluster, running, {"SERVE_BRIDGE_ADDRESS": address, "SERVE_BRIDGE_KEY_FILE": key}


def words_of(head: Host, disk: str) -> tuple[str, ...]:
    """Return the words after `serve-bridge start`, which are the same after a reboot."""
    kept = ("--state", f"{disk}/state", "--key-file", f"{disk}/secret")
    return ("--location", "EveryNode", "--listen", f"{head.address}:7000", *kept)


def test_a_head_that_reboots_without_redis_gets_all_back_by_one_start(tmp_path: Path) -> None:
    """Ray has forgotten the cluster, so each node starts Ray again. The web host is not touched."""
    disk = tmp_path / "disk"
    disk.mkdir(mode=0o700)
    with listening_instance(str(disk)) as (cluster, _, variables):
        web_worker = cluster.web.start(sys.executable, "-c", dedent(WEB_WORKER), environment=variables)
        load = HostLoad(
            *(cluster.web, variables["SERVE_BRIDGE_ADDRESS"], "http://127.0.0.1:8001", "m"),
            ways=OVER_HTTP,
            environment=variables,
        )
        with load:
            load.wait_for_answers(0.0, 40)
            cluster.head.vanish()
            lost = time.monotonic()
            load.wait_for_answers(lost, 40)  # the other node serves
            again = cluster.switch.add("head", instead_of=cluster.head, disk=str(disk))
            start_head(again)
            cluster.worker.stop_ray()
            start_worker(cluster, cluster.worker)
            start_instance(cluster, again, *words_of(again, str(disk)))
            end = time.monotonic()
            load.wait_for_answers(end, 80)
        run = load.checked(cluster.worker)
        first = min(o.sent for o in run.outcomes if o.ok)
    web_worker.communicate()  # it has ended with its host
    note_run(run, **{"reboots of the head without Redis": 1})
    note(1, f"the first answer {after(run.outcomes, end):.1f} s after `serve-bridge start`")
    assert [o for o in run.failed() if first < o.sent and o.done < lost] == [], summary(run.outcomes)
    answered = [o for o in run.failed() if o.sent > first]  # before, the web worker was still starting
    assert {(o.status, o.executed) for o in answered} <= FAILURES, summary(run.outcomes)


def test_a_worker_node_that_is_killed_and_joins_again_costs_only_its_own_requests(tmp_path: Path) -> None:
    """Requests for the other node do not notice. This node serves again without a command for the instance."""
    kills = at_scale(1, 10)
    waits_s = []
    with hosts() as switch:
        head, web = (switch.add(name) for name in ("head", "web"))
        worker = switch.add("worker", disk=str(tmp_path))
        cluster = Cluster(switch, head, worker, web)
        start_head(head)
        start_worker(cluster, worker)
        worker.keep_file(JOURNAL, str(tmp_path / "journal"))
        running = start_instance(cluster, head, "--location", "EveryNode")
        running.manage(RECORDERS)
        running.manage(RECORDERS.replace("worker", "head").replace('"m"', '"near"').replace("/m", "/near"))
        url = f"http://{head.address}:8000"
        with (
            HostLoad(web, running.web_address, url, "m", ways=CALLS) as far,
            HostLoad(web, running.web_address, url, "near") as near,
        ):
            for _ in range(kills):
                wait_for_proxies(running, 2)
                far.wait_for_answers(time.monotonic(), 40)
                worker.vanish()
                wait_for_proxies(running, 1)
                worker = switch.add("worker", instead_of=worker, disk=str(tmp_path))
                worker.keep_file(JOURNAL, str(tmp_path / "journal"))
                start_worker(cluster, worker)
                joined = time.monotonic()
                far.wait_for_answers(joined, 40)
                waits_s.append(after(far.outcomes(), joined))
        lost, kept = far.checked(worker), near.checked(head)
    note_run(lost, **{"kills of a node": kills})
    note_run(kept)
    note(kills, f"the node answers {max(waits_s):.1f} s after Ray's start there, at most")
    assert kept.failed() == [], summary(kept.outcomes)
    assert {(o.status, o.executed) for o in lost.failed()} <= FAILURES, summary(lost.outcomes)
