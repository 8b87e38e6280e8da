"""Proxies that are killed under load: their port stays open, so only requests on their own connections are lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

import serve_bridge as serve
from tests.faults.conftest import REQUEST_TIMEOUT_S, Stage, actors
from tests.faults.support.counts import at_scale
from tests.faults.support.load import Load
from tests.faults.support.oracle import summary, violations
from tests.support.waiting import wait_until, wait_until_equal

ANEW = ("get-anew", "post-anew")
"""A connection for each request. Its client waits for as long as the start of a proxy may take on a busy machine."""

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(at_scale(300, 1200))]


@pytest.fixture(scope="module", params=[1, 2], ids=["one proxy", "two proxies"])
def instance(request: pytest.FixtureRequest, ray_cluster: Any) -> Iterator[serve.Client]:
    """An instance with one proxy, or with two."""
    options: Any = {"port": 0, "proxies_per_node": request.param, "request_timeout_s": REQUEST_TIMEOUT_S}
    client = serve.start(name="proxies", http_options=options)
    wait_until_whole(client, request.param)
    yield client
    client.shutdown()
    wait_until(lambda: not actors())


def wait_until_whole(client: serve.Client, count: int) -> None:
    """Wait until *client* has *count* proxies, which all live."""
    wait_until_equal(lambda: (len(actors("Proxy")), len(client.status()["proxies"])), (count, count), 60.0)


def killed(process: psutil.Process) -> float:
    """Kill *process*; return the time after the kernel has closed its sockets."""
    process.kill()
    wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
    return time.monotonic()


def check(stage: Stage, load: Load, ends: list[float]) -> None:
    """Assert the invariants, and that each lost request was under way when a proxy ended, at one of *ends*."""
    run = stage.read(load, **{"proxy kills": len(ends)})
    found = violations(run)
    # While there is no proxy, a connection waits in the kernel's queue, and only its client counts the time.
    found.pop("in_time", None)
    assert found == {}, found
    unexplained = [o for o in run.failed() if not any(o.sent <= end <= o.done + 1.0 for end in ends)]
    assert unexplained == [], summary(run.outcomes)
    assert {o.status for o in run.failed()} <= {0}, summary(run.outcomes)


def test_a_killed_proxy_loses_only_its_own_connections(stage: Stage) -> None:
    """A connection that no proxy had accepted is accepted by the other one, or by the next one."""
    stage.serve("m")
    count = len(stage.client.status()["proxies"])
    ends = []
    with stage.load("m", ways=ANEW, rate=40.0, timeout_s=60.0) as load:
        for _ in range(at_scale(2, 10)):  # with one proxy, and with two
            load.wait_for_more(60)
            ends.append(killed(actors("Proxy")[0]))
            load.wait_for_more(60)
            wait_until_whole(stage.client, count)
    check(stage, load, ends)


def test_a_port_outlives_its_controller_and_then_its_proxies(stage: Stage) -> None:
    """The next controller gets the port from a proxy, and keeps it while there is no proxy."""
    stage.serve("m")
    before = actors("Proxy")
    port = urlsplit(stage.client.http_urls[0]).port

    def has_port(process: psutil.Process) -> bool:
        return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in process.net_connections("tcp"))

    with stage.load("m", ways=ANEW, rate=40.0, timeout_s=60.0) as load:
        (controller,) = actors("Controller")
        killed(controller)
        wait_until(lambda: any(has_port(process) for process in actors("Controller")), 60.0)
        ends = [killed(proxy) for proxy in before]
        wait_until_whole(stage.client, len(before))
        load.wait_for_more(60)
    check(stage, load, ends)
    assert {process.pid for process in actors("Proxy")}.isdisjoint(process.pid for process in before)


def test_a_port_closes_with_its_instance(ray_cluster: Any) -> None:
    """Nothing listens on it any more, so another instance can have it."""
    first = serve.start(name="first", http_options={"port": 0, "proxies_per_node": 2})
    port = urlsplit(first.http_urls[0]).port or 0
    first.shutdown()
    second = serve.start(name="second", http_options={"port": port})
    second.shutdown()
