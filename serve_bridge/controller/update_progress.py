"""The progress of the updates of backends, for `status`.

Rule 1: it makes no decision. `backend_changes` and `rolling_updates` report to it.
Rule 2: an update stays until it is complete. One that was undone stays until the next one of its backend.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from serve_bridge.controller.tracked_replica import TrackedReplica
from serve_bridge.instance.instance_status import UpdateStatusDict
from serve_bridge.specs import BackendSpec, Origin

INTERRUPTED: Final = "the controller ended during the update, and the next one undoes it"

RUNS: Final = "runs"
IS_UNDONE: Final = "is undone"
UNDONE: Final = "undone"


@dataclass
class _Update:
    state: str
    revisions: frozenset[int]
    wanted: int
    origin: Origin | None
    failure: str | None = None


class UpdateProgress:
    """The last update of each backend, unless it is complete."""

    def __init__(self) -> None:
        self._updates: dict[str, _Update] = {}

    def begin(self, new: BackendSpec) -> None:
        """Note that replicas of *new* replace the others of its backend."""
        self._updates[new.name] = _Update(RUNS, frozenset({new.revision}), new.config.num_replicas, new.origin)

    def complete(self, name: str) -> None:
        """Forget the update of backend *name*, because it is complete, or the backend is deleted."""
        self._updates.pop(name, None)

    def stop(self, name: str, failure: str) -> None:
        """Note that the update of backend *name* has failed. Its replicas return to the old code."""
        if name in self._updates:
            self._updates[name].state, self._updates[name].failure = IS_UNDONE, failure

    def undone(self, name: str) -> None:
        """Note that all replicas of backend *name* have the old code again."""
        if name in self._updates:
            self._updates[name].state = UNDONE

    def fail(self, name: str, failure: str) -> None:
        """Note the error that the caller of the update of backend *name* gets."""
        if name in self._updates:
            self._updates[name].failure = failure
            if self._updates[name].state == RUNS:  # its new replicas have ended, and the old ones were not touched
                self._updates[name].state = UNDONE

    def resume(self, backend: BackendSpec, replaced: int) -> None:
        """Note that the unfinished update of *backend* is undone, which a former controller has left.

        *replaced* is the number of replicas with the new code.
        """
        unfinished = backend.unfinished
        assert unfinished is not None
        if backend.name in self._updates:
            return
        wanted = unfinished.wanted or backend.config.num_replicas
        failure = unfinished.failure or f"{INTERRUPTED}: {replaced} of {wanted} replicas had the new code"
        revisions = frozenset(unfinished.revisions)
        self._updates[backend.name] = _Update(IS_UNDONE, revisions, wanted, unfinished.origin, failure)

    def of(self, name: str, serving: Iterable[TrackedReplica]) -> UpdateStatusDict | None:
        """Return the progress of the update of backend *name* with these *serving* replicas; None: there is none."""
        update = self._updates.get(name)
        if update is None:
            return None
        has_new = [replica.revision in update.revisions for replica in serving]
        origin = update.origin or Origin("")
        return UpdateStatusDict(
            state=update.state,
            version=origin.version or origin.fingerprint[:8] or None,
            wanted=update.wanted,
            new=sum(has_new),
            old=len(has_new) - sum(has_new),
            failure=update.failure,
        )
