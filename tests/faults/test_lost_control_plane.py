"""Ray's control plane stops: requests go on, and changes are refused in time until it is back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import serve_bridge as serve
from tests.faults.conftest import Stage, actors, check
from tests.faults.support.backends import Recorder
from tests.support.programs import children_where
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.faults]


@contextmanager
def stopped_control_plane() -> Iterator[None]:
    """Stop the GCS of the cluster of this run, and let it go on at the end."""
    (gcs,) = children_where(lambda process: bool(process.name() == "gcs_server"))
    gcs.suspend()
    try:
        yield
    finally:
        gcs.resume()


def test_without_the_control_plane_changes_are_refused_and_requests_go_on(stage: Stage) -> None:
    """Each error names the control plane. Later the same changes work, and no refused one has been made."""
    stage.serve("m", config={"num_replicas": 2})
    stage.client.create_backend("n", Recorder, str(stage.journal), "v2")
    client = stage.client
    changes: list[Callable[[], None]] = [
        lambda: client.set_traffic("m", {"m": 0.5, "n": 0.5}),
        lambda: client.create_endpoint("e", backend="m"),
        lambda: client.create_backend("o", Recorder, str(stage.journal), "v3"),
        lambda: client.update_backend("n", Recorder, str(stage.journal), "v3"),
        lambda: client.update_backend_config("m", {"num_replicas": 1}),
        lambda: client.delete_backend("n"),
    ]
    before = {process.pid for process in actors("Replica")}
    with stage.load("m") as load:
        with stopped_control_plane():
            for change in changes:
                with pytest.raises(serve.ControlPlaneLost, match="control plane"):
                    change()
            with pytest.raises(serve.ControlPlaneLost, match=r"gone for good, run `ray stop`"):
                client.shutdown()
            assert client.status()["endpoints"]["m"]["traffic"] == {"m": 1.0}
            load.wait_for_more(60)
        wait_until(lambda: works(lambda: client.set_traffic("m", {"m": 1.0, "n": 0.0})), 60.0)
        (controller,) = actors("Controller")
        controller.kill()
        wait_until(lambda: {process.pid for process in actors("Controller")} - {controller.pid}, 60.0)
        assert client.list_endpoints().keys() == {"m"}
        assert client.list_endpoints()["m"]["traffic"] == {"m": 1.0, "n": 0.0}
        assert client.list_backends().keys() == {"m", "n"}
        load.wait_for_more(60)
    check(stage.read(load))
    wait_until(lambda: {process.pid for process in actors("Replica")} == before, 60.0)


def works(change: Callable[[], None]) -> bool:
    """Try *change*; return whether the control plane is back."""
    try:
        change()
    except serve.ControlPlaneLost:
        return False
    return True
