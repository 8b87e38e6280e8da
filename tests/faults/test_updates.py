"""Changes under load lose nothing: updates, resizes, splits, shadows, and changes that are refused."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import serve_bridge as serve
from tests.conftest import ACCELERATORS
from tests.faults.conftest import Stage, actors, check, scaled
from tests.faults.support.backends import OneAtFirst, Raising, Recorder, Unhealthy, Unstartable, Waiting
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.faults]


def test_a_rolling_update_under_load_loses_nothing(stage: Stage) -> None:
    """P1: no request fails, and after each update none is answered by the version before."""
    stage.serve("m", config={"num_replicas": 2})
    updated = {}
    with stage.load("m") as load:
        for number in range(scaled(2)):
            stage.client.update_backend("m", Recorder, str(stage.journal), f"v{number + 2}")
            updated[f"v{number + 1}"] = time.monotonic()
            load.wait_for_more(60)
    check(stage.read(load, updates=len(updated)), updated)


def test_an_update_on_a_full_cluster_under_load_loses_nothing(stage: Stage) -> None:
    """P1: one replica after another is replaced in its place, when no resource is left for another one."""
    one_each = {"num_cpus": 0, "resources": {"accelerator": 1}}
    room = {"num_replicas": ACCELERATORS, "max_surge": 0, "max_unavailable": 1}
    stage.serve("m", config=room, ray_actor_options=one_each)
    updated = {}
    with stage.load("m") as load:
        for number in range(scaled(1)):
            stage.client.update_backend("m", Recorder, str(stage.journal), f"v{number + 2}")
            updated[f"v{number + 1}"] = time.monotonic()
            load.wait_for_more(60)
        with pytest.raises(serve.BackendStartError, match="no model here; the update stopped after 0 of 4 replicas"):
            stage.client.update_backend("m", Unstartable, str(stage.journal))
        load.wait_for_more(60)
    check(stage.read(load, updates=len(updated)), updated)
    assert len(stage.ready("m")) == ACCELERATORS


def test_a_controller_killed_in_the_middle_of_an_update_in_steps_undoes_it(stage: Stage) -> None:
    """P11: the replicas return to the old code, and no request is lost."""
    stage.serve("m", config={"num_replicas": 2, "max_surge": 1})
    never = str(stage.directory / "never")
    with stage.load("m") as load, ThreadPoolExecutor() as threads:
        update = threads.submit(stage.client.update_backend, "m", OneAtFirst, str(stage.journal), "v2", never)
        wait_until(lambda: len(stage.events("constructing")) == 2, 60.0)
        load.wait_for_more(60)
        (controller,) = actors("Controller")
        controller.kill()
        with pytest.raises(serve.NotConnected):
            update.result()
        new = {event.pid for event in stage.events("constructing")}
        wait_until(lambda: not new & {process.pid for process in actors("Replica")}, 60.0)
        stage.wait_until_whole("m")
        undone = time.monotonic()
        load.wait_for_more(60)
    assert "v2" in {outcome.version for outcome in load.outcomes()}
    check(stage.read(load), {"v2": undone})
    assert len(actors("Replica")) == 2
    stage.client.update_backend("m", Recorder, str(stage.journal), "v3")


def test_scaling_down_and_up_under_load_loses_nothing(stage: Stage) -> None:
    """P2: replicas that go finish what they have, those that come are ready first."""
    stage.serve("m", config={"num_replicas": 4})
    with stage.load("m") as load:
        for _ in range(scaled(1)):
            for count in (1, 4):
                stage.client.update_backend_config("m", {"num_replicas": count})
                load.wait_for_more(60)
    check(stage.read(load))


def test_a_failed_update_keeps_the_old_version(stage: Stage) -> None:
    """P3: new code that cannot start, or is never healthy, changes nothing for callers."""
    stage.serve("m")
    old = stage.ready("m")
    with stage.load("m") as load:
        with pytest.raises(serve.BackendStartError, match="no model here"):
            stage.client.update_backend("m", Unstartable, str(stage.journal))
        with pytest.raises(serve.BackendStartError, match="not well"):
            stage.client.update_backend("m", Unhealthy, str(stage.journal))
        load.wait_for_more(30)
    check(stage.read(load))
    assert {outcome.version for outcome in load.outcomes()} == {"v1"}
    assert stage.ready("m") == old


def test_a_storm_of_policies_loses_nothing_and_keeps_shadows(stage: Stage) -> None:
    """P5: the split changes as fast as it can under load, and the shadow stays."""
    stage.serve("m")
    stage.client.create_backend("n", Recorder, str(stage.journal), "v2")
    stage.client.create_backend("shadow", Raising, str(stage.directory / "shadowed"))
    stage.client.shadow_traffic("m", "shadow", 0.5)
    with stage.load("m") as load:
        for number in range(scaled(60)):
            share = (number % 11) / 10
            stage.client.set_traffic("m", {"m": share, "n": 1 - share})
        load.wait_for_more(60)
    check(stage.read(load))
    assert {outcome.version for outcome in load.outcomes()} == {"v1", "v2"}
    assert stage.client.list_endpoints()["m"]["shadows"] == {"shadow": 0.5}


def test_shadows_in_trouble_never_hurt_the_primary(stage: Stage) -> None:
    """P7: a shadow that raises, one that is saturated, and one that is deleted meanwhile."""
    stage.serve("m")
    shadowed = str(stage.directory / "shadowed")
    gate = stage.directory / "gate"
    stage.client.create_backend("raising", Raising, shadowed)
    saturated = {"max_concurrent_queries": 1, "max_queued_queries": 2}
    stage.client.create_backend("saturated", Waiting, shadowed, str(gate), config=saturated)
    for shadow in ("raising", "saturated"):
        stage.client.shadow_traffic("m", shadow, 1.0)
    with stage.load("m") as load:
        load.wait_for_more(100)
        gate.touch()
        for shadow in ("raising", "saturated"):
            stage.client.delete_backend(shadow, force=True)
        load.wait_for_more(60)
    check(stage.read(load))


@pytest.mark.parametrize(
    "config",
    [{"num_replicas": 0}, {"num_replica": 2}, {"max_concurrent_queries": "2"}, {"user_config": {"a": 1}}],
    ids=lambda config: next(iter(config)),
)
def test_a_bad_config_changes_nothing(stage: Stage, config: dict[str, object]) -> None:
    """P8: it is refused, and what runs goes on as it was."""
    stage.serve("m")
    before = stage.ready("m"), stage.client.get_backend_config("m")
    with pytest.raises((ValueError, TypeError)):
        stage.client.update_backend_config("m", config)
    assert (stage.ready("m"), stage.client.get_backend_config("m")) == before
    assert wait_until(lambda: stage.client.get_handle("m").call(b"x", id="a", payload=""))["version"] == "v1"
