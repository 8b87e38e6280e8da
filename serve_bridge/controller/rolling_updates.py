"""Updates in bounded room: the replicas of a backend are replaced in steps, and both versions answer until the end.

Rule 1: the update is checkpointed before its first step. A controller that restarts in the middle undoes it.
Rule 2: if new code fails at any step, the update stops, and the replaced replicas return to the old code in steps of
    the same room.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from serve_bridge.config.backend_config import check_room
from serve_bridge.controller.checkpoint import Checkpoints
from serve_bridge.controller.committed_state import CommittedState
from serve_bridge.controller.lifecycle import ReplicaState
from serve_bridge.controller.replicas import Replicas
from serve_bridge.controller.tracked_replica import SERVING, TrackedReplica
from serve_bridge.controller.update_progress import UpdateProgress
from serve_bridge.controller.update_steps import Counts, Room, next_step
from serve_bridge.errors import BackendStartError, ConfigError
from serve_bridge.specs import BackendSpec, BackendUpdate, UnfinishedUpdate

LOOK_S: Final = 0.1
"""Seconds until the next look at the replicas, while an update waits for their health or for their end."""

_logger = logging.getLogger("serve_bridge.controller")


class RollingUpdates:
    """Replaces the replicas of backends in steps. The caller has the lock of the backend."""

    def __init__(
        self,
        state: CommittedState,
        checkpoints: Checkpoints,
        replicas: Replicas,
        progress: UpdateProgress,
        launch: Callable[[BackendSpec, int], Awaitable[None]],
        withdraw: Callable[[list[TrackedReplica]], Awaitable[None]],
    ) -> None:
        """*launch* starts replicas and waits until they are ready. *withdraw* unpublishes, drains and ends replicas."""
        self._state = state
        self._checkpoints = checkpoints
        self._replicas = replicas
        self._progress = progress
        self._launch = launch
        self._withdraw = withdraw

    def room(self, new: BackendSpec, update: BackendUpdate) -> Room | None:
        """Return the room of *update* to *new*; None if all new replicas may start beside the running ones.

        Raises:
            ConfigError: The room is 0.
        """
        surge = new.config.max_surge if update.max_surge is None else update.max_surge
        unavailable = new.config.max_unavailable if update.max_unavailable is None else update.max_unavailable
        check_room(surge, unavailable)
        if surge is None or surge >= len(self._replicas.of(new.name, *SERVING)):
            return None
        return Room(surge, unavailable)

    async def replace(self, old: BackendSpec, new: BackendSpec, room: Room) -> None:
        """Bring the wanted number of replicas of *new* up, and end replicas of *old* for them.

        The caller then commits *new*, and withdraws the rest of *old*.

        Raises:
            BackendStartError: The new code failed. The replicas have the old code again, or return to it later.
            ConfigError: Ray or the store refuses *new*. The same holds.
        """
        revisions = (*(old.routed_revisions - {old.revision}), new.revision)
        wanted = new.config.num_replicas
        unfinished = UnfinishedUpdate(revisions, room.surge, room.unavailable, wanted, new.origin)
        marked = replace(old, unfinished=unfinished)
        await self._state.note(lambda wanted: wanted.backends.update({old.name: marked}))
        try:
            await self._take_steps(new, room, stop_at_loss=True)
        except Exception as error:
            replaced = len(self._split(new)[0])
            _logger.warning("backend %r: the update stops, and is undone: %s", new.name, error)
            failure = f"{error}; the update stopped after {replaced} of {wanted} replicas"
            self._progress.stop(new.name, failure)
            missing = await self._undone(replace(marked, unfinished=replace(unfinished, failure=failure)))
            if isinstance(error, ConfigError):
                raise
            raise _stopped(new, error, replaced, missing) from error

    async def undo(self, backend: BackendSpec) -> None:
        """Bring the replicas of the unfinished update of *backend* back to the code of *backend*.

        Raises:
            Exception: A replica cannot start, for example. A later try may succeed.
        """
        unfinished = backend.unfinished
        assert unfinished is not None
        others = self._split(backend)[1]
        self._progress.resume(backend, sum(replica.revision in unfinished.revisions for replica in others))
        await self._take_steps(backend, Room(unfinished.surge, unfinished.unavailable))
        done = replace(backend, unfinished=None)
        await self._state.change(lambda wanted: wanted.backends.update({backend.name: done}))
        await self._withdraw(self._split(backend)[1])
        self._progress.undone(backend.name)
        for revision in unfinished.revisions:
            await self._checkpoints.forget_code(replace(backend, revision=revision))

    async def _undone(self, backend: BackendSpec) -> int:
        """Undo the unfinished update of *backend*; return the number of replicas that could not return."""
        try:
            await self._state.note(lambda wanted: wanted.backends.update({backend.name: backend}))
            await self.undo(backend)
        except Exception as error:  # any error: the repairs of the backend try again
            _logger.warning("backend %r: the update is not undone yet: %s", backend.name, error)
            return max(1, backend.config.num_replicas - len(self._split(backend)[0]))
        return 0

    async def _take_steps(self, target: BackendSpec, room: Room, *, stop_at_loss: bool = False) -> None:
        """Replace other replicas by replicas of *target* until the wanted number of these is ready.

        Raises:
            BackendStartError: A replica cannot start; with *stop_at_loss* also: one of *target* was lost.
        """
        begun: set[TrackedReplica] = set()
        while True:
            own, others = self._split(target)
            begun.update(own)
            if stop_at_loss and (lost := begun.difference(own)):
                raise BackendStartError(target.name, f"{lost.pop()} has the new code, and was lost during the update")
            counts = self._counts(target, own, others)
            if counts.new_ready >= counts.wanted:
                return
            step = next_step(counts, room)
            if step.start:
                await self._launch(target, step.start)
                await self._state.save()  # first: a next controller ends replicas whose addresses it does not know
                await self._state.publish()
            elif step.end:
                await self._withdraw(others[: step.end])
            else:
                await asyncio.sleep(LOOK_S)

    def _counts(self, target: BackendSpec, own: list[TrackedReplica], others: list[TrackedReplica]) -> Counts:
        new_ready = sum(replica.state is ReplicaState.READY for replica in own)
        old_ready = sum(replica.state is ReplicaState.READY for replica in others)
        return Counts(
            wanted=target.config.num_replicas,
            new_ready=new_ready,
            new_unready=len(own) - new_ready,
            old_ready=old_ready,
            old_unready=len(others) - old_ready,
            ending=len(self._replicas.of(target.name, ReplicaState.STARTING, ReplicaState.DRAINING)),
        )

    def _split(self, target: BackendSpec) -> tuple[list[TrackedReplica], list[TrackedReplica]]:
        """Return the replicas with the code of *target*, and the others. Those that are not ready come first."""
        running = sorted(self._replicas.of(target.name, *SERVING), key=lambda r: r.state is ReplicaState.READY)
        own = [replica for replica in running if replica.revision == target.revision]
        return own, [replica for replica in running if replica.revision != target.revision]


def _stopped(new: BackendSpec, error: Exception, replaced: int, missing: int) -> BackendStartError:
    """Return the error of a stopped update, which says how far it came."""
    if not isinstance(error, BackendStartError):
        error = BackendStartError(new.name, f"{type(error).__name__}: {error}")
    rest = (
        f"the old code does not start again in {missing} replicas, and the controller keeps trying"
        if missing
        else "all replicas have the old code again"
    )
    reason = f"{error.reason}; the update stopped after {replaced} of {new.config.num_replicas} replicas, and {rest}"
    return BackendStartError(new.name, reason, error.remote_traceback)
