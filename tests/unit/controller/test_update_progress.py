"""The progress of the updates of backends, as `status` shows it."""

from __future__ import annotations

from dataclasses import replace

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.controller.tracked_replica import TrackedReplica
from serve_bridge.controller.update_progress import INTERRUPTED, UpdateProgress
from serve_bridge.specs import BackendSpec, Origin, UnfinishedUpdate
from serve_bridge.wire.opaque import Opaque

OLD = BackendSpec("b", b"old", False, BackendConfig(num_replicas=3), Opaque({}))
NEW = replace(OLD, code=b"new", revision=2, origin=Origin("shop", fingerprint="abcdef0123456789"))


def replicas(*revisions: int) -> list[TrackedReplica]:
    """Return a replica of each of these revisions."""
    return [TrackedReplica(f"r-{number}", "b", each, BackendConfig()) for number, each in enumerate(revisions)]


def test_replicas_of_both_versions_are_counted() -> None:
    """The fingerprint names code without a version."""
    progress = UpdateProgress()
    progress.begin(NEW)
    update = {"state": "runs", "version": "abcdef01", "wanted": 3, "new": 1, "old": 2, "failure": None}
    assert progress.of("b", replicas(1, 2, 1)) == update
    progress.complete("b")
    assert progress.of("b", replicas(2, 2, 2)) is None


def test_a_stopped_update_is_undone_until_all_replicas_have_the_old_code() -> None:
    """The error for the caller comes last, and changes no state."""
    progress = UpdateProgress()
    progress.begin(NEW)
    progress.stop("b", "no GPU")
    progress.fail("b", "no GPU; and more")
    shown = progress.of("b", replicas(1, 2))
    assert shown is not None
    assert (shown["state"], shown["failure"]) == ("is undone", "no GPU; and more")
    progress.undone("b")
    shown = progress.of("b", replicas(1, 1))
    assert shown is not None
    assert (shown["state"], shown["new"], shown["old"]) == ("undone", 0, 2)


def test_an_update_of_a_former_controller_keeps_its_failure() -> None:
    """Without one, the end of that controller is the reason; an earlier version has noted neither number nor code."""
    for failure, said in (("no GPU", "no GPU"), ("", f"{INTERRUPTED}: 2 of 3 replicas had the new code")):
        progress = UpdateProgress()
        progress.resume(replace(OLD, unfinished=UnfinishedUpdate((2,), 0, 1, failure=failure)), 2)
        update = {"state": "is undone", "version": None, "wanted": 3, "new": 2, "old": 1, "failure": said}
        assert progress.of("b", replicas(2, 1, 2)) == update
