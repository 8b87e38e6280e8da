"""Processes that die or hang under load: replicas, the controller, constructors."""

from __future__ import annotations

import contextlib
import random
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

import serve_bridge as serve
from serve_bridge.controller.tracked_replica import CRASH_S
from tests.faults.conftest import LONG_ONLY, REQUEST_TIMEOUT_S, Stage, actors, check, summary
from tests.faults.report.figures import note
from tests.faults.support.backends import Crashing, Recorder, Slow
from tests.faults.support.counts import at_scale
from tests.faults.support.oracle import violations
from tests.support.waiting import wait_until, wait_until_equal

pytestmark = [pytest.mark.ray, pytest.mark.faults]

MOST_UPDATE_S = 3.0
"""About how long an update takes, in seconds."""


def a_replica(stage: Stage, endpoint: str) -> psutil.Process:
    """Return the process of some replica behind *endpoint*."""
    answer = stage.client.get_handle(endpoint).options(timeout_s=5).call(b"", id="who", payload="")
    return psutil.Process(answer["pid"])


def an_old_replica() -> psutil.Process:
    """Return the oldest replica, when its death is no sign of a crash loop, in which each start is later (P13)."""
    oldest = min(actors("Replica"), key=lambda replica: replica.create_time())
    wait_until(lambda: time.time() - oldest.create_time() >= CRASH_S + 3.0)
    return oldest


def test_a_killed_replica_loses_nothing_idempotent_and_runs_nothing_twice(stage: Stage) -> None:
    """P9: only what was in flight there and may not be repeated fails; the replica is replaced."""
    stage.serve("m", config={"num_replicas": 2})
    with stage.load("m") as load:
        load.wait_for_more(60)
        kills = at_scale(2, 50)
        for _ in range(kills):
            an_old_replica().kill()
            load.wait_for_more(30)
            stage.wait_until_whole("m")
            load.wait_for_more(30)
    run = stage.read(load, kills=kills)
    assert violations(run) == {}
    assert [o for o in run.failed() if o.kind == "idempotent"] == [], summary(run.outcomes)
    assert {(o.status, o.executed) for o in run.failed()} <= {(502, "unknown")}, summary(run.outcomes)


def test_a_stopped_replica_is_left_out_and_replaced(stage: Stage) -> None:
    """P10: what it holds ends with 504 at its deadline, the others serve, and a new one takes its place."""
    stage.serve("m", config={"num_replicas": 2})
    with stage.load("m", timeout_s=REQUEST_TIMEOUT_S) as load:
        load.wait_for_more(60)
        stopped = a_replica(stage, "m")
        stopped.suspend()
        wait_until(lambda: not stopped.is_running() or stopped.status() == psutil.STATUS_ZOMBIE, 40.0)
        stage.wait_until_whole("m")
        load.wait_for_more(30)
    run = stage.read(load)
    assert violations(run) == {}
    assert {(o.status, o.executed) for o in run.failed()} <= {(502, "unknown"), (504, "unknown")}
    assert all(o.done < o.deadline + 1.0 for o in run.outcomes)


def test_a_stopped_replica_gets_nothing_new_after_a_few_seconds(stage: Stage) -> None:
    """P10: routers find out by themselves, long before it is replaced."""
    patient = {"health_check_timeout_s": 60.0, "num_replicas": 2}
    stage.serve("m", config=patient)
    with stage.load("m", timeout_s=REQUEST_TIMEOUT_S) as load:
        load.wait_for_more(60)
        stopped = a_replica(stage, "m")
        stopped.suspend()
        try:
            load.wait_for_more(60)
            wait_until(lambda: any(o.status == 504 for o in load.outcomes()), 20.0)
            after = len(load.outcomes())
            load.wait_for_more(200)
        finally:
            stopped.resume()
    late = load.outcomes()[after + 100 :]
    assert [o for o in late if not o.ok and o.sent > late[0].done] == [], summary(late)
    assert violations(stage.read(load)) == {}


def test_a_killed_controller_loses_nothing(stage: Stage) -> None:
    """P11: requests go on, no replica or proxy is lost or started, and changes are taken again."""
    stage.serve("m", config={"num_replicas": 2})
    before = {process.pid for kind in ("Replica", "Proxy") for process in actors(kind)}
    with stage.load("m") as load:
        kills = at_scale(1, 10)
        for number in range(kills):
            (controller,) = actors("Controller")
            controller.kill()
            load.wait_for_more(30)
            stage.client.create_endpoint(f"again-{number}", backend="m")
            load.wait_for_more(60)
    check(stage.read(load, kills=kills))
    assert {process.pid for kind in ("Replica", "Proxy") for process in actors(kind)} == before


def test_a_controller_killed_at_any_step_of_an_update_loses_nothing(stage: Stage) -> None:
    """P11: it dies at a random moment of each update; what an update replaced never answers again."""
    chance = random.Random(11)
    stage.serve("m", config={"num_replicas": 2})
    kills = at_scale(2, 30)
    with stage.load("m", rate=60.0) as load, ThreadPoolExecutor() as threads:
        for number in range(kills):
            update = threads.submit(
                stage.client.update_backend, "m", Recorder, str(stage.journal), f"v{number + 2}", 0.05
            )
            time.sleep(chance.random() * MOST_UPDATE_S)
            for controller in actors("Controller"):
                controller.kill()
            with contextlib.suppress(serve.NotConnected):
                update.result()
            wait_until(lambda: answers(stage), 60.0)
            wait_until_equal(lambda: (len(stage.ready("m")), len(actors("Replica"))), (2, 2), 60.0)
            load.wait_for_more(30)
    check(stage.read(load, kills=kills))


def answers(stage: Stage) -> bool:
    """Return whether the controller answers."""
    try:
        return bool(stage.client.status())
    except serve.NotConnected:
        return False


def test_a_storm_of_faults_breaks_no_invariant(stage: Stage) -> None:
    """P15: replicas and controllers die and stop at random, among updates."""
    chance = random.Random(15)
    stage.serve("m", config={"num_replicas": 3})
    kills = at_scale(3, 60)
    with stage.load("m", rate=60.0) as load:
        load.wait_for_more(30)
        for number in range(kills):
            kind = chance.choice(("Replica", "Replica", "Controller", "stop", "update"))
            if kind == "update":
                with contextlib.suppress(serve.ServeBridgeError):
                    stage.client.update_backend("m", Recorder, str(stage.journal), f"v{number}")
            elif kind == "stop":
                stopped = chance.choice(wait_until(lambda: actors("Replica"), 60.0))
                stopped.suspend()
                load.wait_for_more(60)
                with contextlib.suppress(psutil.Error):
                    stopped.resume()
            else:
                with contextlib.suppress(psutil.Error):
                    chance.choice(wait_until(lambda kind=kind: actors(kind), 60.0)).kill()
            load.wait_for_more(60)
            wait_until(lambda: answers(stage), 60.0)
        stage.wait_until_whole("m")
    run = stage.read(load, faults=kills)
    assert violations(run) == {}
    known = {(502, "unknown"), (503, "no"), (504, "no"), (504, "unknown")}
    assert {(o.status, o.executed) for o in run.failed()} <= known, summary(run.outcomes)


def test_a_controller_killed_during_an_update_leaves_no_orphan(stage: Stage) -> None:
    """P11: what it had begun to start is ended, and the old version serves on."""
    stage.serve("m")
    never = str(stage.directory / "never")
    with stage.load("m") as load, ThreadPoolExecutor() as threads:
        update = threads.submit(stage.client.update_backend, "m", Slow, str(stage.journal), never)
        wait_until(lambda: stage.events("constructing"))
        (controller,) = actors("Controller")
        controller.kill()
        with pytest.raises(serve.NotConnected):
            update.result()
        wait_until_equal(lambda: len(actors("Replica")), 1)
        stage.wait_until_whole("m")
        load.wait_for_more(30)
    check(stage.read(load))


def test_a_start_that_takes_too_long_leaves_nothing(stage: Stage) -> None:
    """The caller is told in time, no process is left, and the name is free again."""
    never = str(stage.directory / "never")
    with pytest.raises(serve.BackendStartError, match="start_timeout_s=3"):
        stage.serve("m", Slow, str(stage.journal), never, config={"start_timeout_s": 3.0, "num_replicas": 2})
    wait_until_equal(lambda: len(actors("Replica")), 0)
    stage.serve("m")


@pytest.mark.parametrize("signal", ["kill", pytest.param("suspend", marks=LONG_ONLY)])
def test_a_proxy_that_is_gone_comes_back_where_it_was(stage: Stage, signal: str) -> None:
    """Killed or hung, it is replaced on its port by itself."""
    stage.serve("m")
    url = stage.client.http_urls[0]
    times = at_scale(1, 20) if signal == "kill" else 1
    for _ in range(times):
        (proxy,) = actors("Proxy")
        getattr(proxy, signal)()
        wait_until(lambda old=proxy.pid: [each for each in actors("Proxy") if each.pid != old], 60.0)
        wait_until_equal(lambda: stage.client.http_urls, [url])
        assert httpx.get(f"{url}/m", params={"id": "a", "payload": ""}, trust_env=False, timeout=30).json()["id"] == "a"
    note(times, f"{times} proxies replaced")


def test_a_crash_loop_is_contained(stage: Stage) -> None:
    """P13: a constructor that ends its process is tried ever more rarely, and reported; others serve."""
    flag = stage.directory / "flag"
    stage.serve("m")
    stage.serve("bad", Crashing, str(stage.journal), str(flag))
    flag.touch()
    with stage.load("m") as load:
        a_replica(stage, "bad").kill()
        wait_until(lambda: stage.client.status()["backends"]["bad"]["failed"], 120.0)
        assert "ended while it started" in stage.client.status()["backends"]["bad"]["failure"]
        tries = len(stage.events("constructed"))
        flag.unlink()
        stage.client.update_backend("bad", Crashing, str(stage.journal), str(flag))
        stage.wait_until_whole("bad")
    check(stage.read(load))
    assert tries < 12
