"""Changes of backends and of their replicas: one at a time for each backend.

Rule 1: a change is checkpointed before it is acted on or published; a refused change leaves everything as it was.
Rule 2: new replicas are ready before old ones are withdrawn, unless the room of an update is bounded (see
    `rolling_updates`). Replicas are unpublished before they drain.
Rule 3: a backend that lacks replicas is repaired whenever no change of it runs (see `repairs`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from weakref import WeakValueDictionary

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.controller.checkpoint import Checkpoints
from serve_bridge.controller.committed_state import CommittedState
from serve_bridge.controller.lifecycle import ReplicaState
from serve_bridge.controller.option_changes import change_options
from serve_bridge.controller.repairs import Repairs
from serve_bridge.controller.replica_launches import ReplicaLaunches
from serve_bridge.controller.replicas import Replicas
from serve_bridge.controller.rolling_updates import LOOK_S, RollingUpdates
from serve_bridge.controller.tracked_replica import RUNNING, SERVING, TrackedReplica
from serve_bridge.controller.update_progress import UpdateProgress
from serve_bridge.specs import BackendSpec, BackendUpdate, Origin

_logger = logging.getLogger("serve_bridge.controller")


class BackendChanges:
    """Makes the changes of backends that users ask for, and repairs backends that have lost replicas.

    Attributes:
        repairs: The backends under repair, and why their replicas could not start.
        progress: The progress of the updates.
    """

    def __init__(
        self, state: CommittedState, checkpoints: Checkpoints, replicas: Replicas, launches: ReplicaLaunches
    ) -> None:
        self._state = state
        self._checkpoints = checkpoints
        self._replicas = replicas
        self._launches = launches
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._running: set[asyncio.Task[None]] = set()
        self.progress: UpdateProgress = UpdateProgress()
        self._rolling = RollingUpdates(state, checkpoints, replicas, self.progress, self._launch, self._withdraw)
        self.repairs: Repairs = Repairs(self._repair)

    async def create_backend(self, backend: BackendSpec) -> None:
        """Start the replicas of *backend*, then let endpoints use it.

        Raises:
            ConfigError: The name is taken.
            BackendStartError: The backend cannot start; nothing of it is left.
        """
        async with self._changing(backend.name):
            self._state.wanted.check_free(backend.name)
            await self._launch(backend, backend.config.num_replicas)
            try:
                await self._state.change(lambda wanted: wanted.backends.update({backend.name: backend}))
            except BaseException:
                await self._replicas.abandon(self._replicas.of(backend.name, *SERVING))
                await self._checkpoints.forget_code(backend)
                raise

    async def update_backend(self, update: BackendUpdate) -> None:
        """Replace the code of a backend: all replicas at once beside the old ones, or in steps of bounded room.

        Raises:
            BackendNotFound: There is no such backend.
            ConfigError: An application would become other code or the other way round, or the room is 0.
            BackendStartError: The new code cannot start; the old code still serves.
        """
        async with self._changing(update.name):
            await self._update(self._state.wanted.backend(update.name), update)

    async def renew_backend(self, name: str) -> None:
        """Replace the replicas of *name* by new processes with the same code, as an update does.

        Raises:
            BackendNotFound: There is no such backend.
            BackendStartError: A new replica cannot start; the old ones still serve.
        """
        async with self._changing(name):
            old = self._state.wanted.backend(name)
            same = BackendUpdate(
                name=name,
                code=old.code,
                is_async=old.is_async,
                is_application=old.is_application,
                origin=old.origin,
            )
            await self._update(old, same)

    async def _update(self, old: BackendSpec, update: BackendUpdate) -> None:
        """Make *update* of *old*, whose lock the caller has."""
        name = old.name
        old.check_same_kind(update.is_application)
        new = old.updated(update)
        room = self._rolling.room(new, update)
        self.progress.begin(new)
        try:
            if room is None:
                await self._launch(new, new.config.num_replicas)
            else:
                await self._rolling.replace(old, new, room)
            await self._state.change(lambda wanted: wanted.backends.update({name: new}))
        except BaseException as error:
            self.progress.fail(name, str(error))
            raise
        await self._withdraw([r for r in self._replicas.of(name, *SERVING) if r.revision != new.revision])
        self.progress.complete(name)
        await self._checkpoints.forget_code(old)

    async def update_backend_config(
        self, name: str, config: BackendConfig, origin: Origin | None = None, code: bytes | None = None
    ) -> None:
        """Change the options of *name* that *config* gives. Its replicas keep running.

        A deployment gives *origin* and *code*: the same code, which later replicas may import from another directory.

        Raises:
            BackendNotFound: There is no such backend.
            ConfigError: The code cannot follow the new options; nothing has changed.
            BackendStartError: More replicas cannot start; the number has not changed.
        """
        async with self._changing(name):
            old = self._state.wanted.backend(name)
            new = replace(old, config=old.config.merged(config), origin=origin or old.origin, code=code or old.code)
            running = self._replicas.of(name, *SERVING)
            await change_options(running, old, new, self._replicas.end_at_once)
            try:
                await self._launch(new, new.config.num_replicas - len(running))
            except BaseException:
                await change_options(running, new, old, self._replicas.end_at_once)
                raise
            if new.code != old.code:
                await self._checkpoints.save_code(new)
            await self._state.change(lambda wanted: wanted.backends.update({name: new}))
            if surplus := running[new.config.num_replicas :]:
                await self._withdraw(surplus)

    async def delete_backend(self, name: str, force: bool) -> None:
        """End the replicas of *name* once no router names them. With *force* they do not drain.

        An unknown name is not an error.

        Raises:
            ConfigError: A traffic policy names the backend.
        """
        async with self._changing(name):
            backend = await self._state.change(lambda wanted: wanted.delete_backend(name, force=force))
            self.progress.complete(name)
            if backend is not None:
                replicas = self._replicas.of(name, *SERVING)
                await (self._replicas.abandon(replicas) if force else self._withdraw(replicas))
                await self._checkpoints.forget_code(backend)

    async def list_backends(self) -> dict[str, BackendConfig]:
        """Return the options of every backend, with the defaults filled in."""
        return {name: backend.resolved for name, backend in self._state.wanted.backends.items()}

    async def completed(self, name: str) -> None:
        """Return once no change of backend *name* runs."""
        async with self._lock(name):
            pass

    def repair_all(self) -> None:
        """Bring every backend to its number of replicas."""
        for name in self._state.wanted.backends:
            self.repairs.begin(name)

    # the replicas report

    def replica_changed(self, replica: TrackedReplica) -> None:
        """Replace *replica* if it was lost; its health may have changed instead."""
        if replica.crashed():
            self.repairs.start_failures[replica.backend].note(f"{replica} died as soon as it was ready")
        self.repairs.begin(replica.backend)

    def replica_ended(self, replica: TrackedReplica, how: str) -> None:
        """Note *how* the process of a lost replica has ended."""
        soon = " as soon as it was ready" if replica.crashed() else ""
        self.repairs.start_failures[replica.backend].explain(f"{replica} ended with {how}{soon}")

    async def close(self) -> None:
        """Cancel the changes and repairs that run, except one that calls this, and wait for their end."""
        running = {*self.repairs.close(), *self._running} - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    # steps

    @asynccontextmanager
    async def _changing(self, name: str) -> AsyncIterator[None]:
        """Let the caller change backend *name*, and no other task. Then repair what the backend lacks."""
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        # A repair may wait for replicas of a wrong backend, which hang while they start. Its correction must not wait.
        self.repairs.interrupt(name)
        try:
            async with self._lock(name):
                await self._end_strays(name)
                yield
        finally:
            self._running.discard(task)
            self.repairs.begin(name)

    def _lock(self, name: str) -> asyncio.Lock:
        """Return the lock of backend *name*. It exists only while it is used, since callers may name any backend."""
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock

    async def _launch(self, backend: BackendSpec, count: int, *, all_or_none: bool = True) -> None:
        if count <= 0:
            return
        planned = self._launches.plan(backend, count)
        try:
            await self._checkpoints.save_code(backend)
            await self._state.save()
        except BaseException:
            await self._replicas.abandon(planned)
            raise
        await self._launches.launch(backend, planned, all_or_none=all_or_none)

    async def _withdraw(self, replicas: list[TrackedReplica]) -> None:
        """Unpublish *replicas*, then drain and end them. If this controller dies, the next one continues.

        A router that still has the old table may send a request after that. It gets a REJECT, and sends the request to
        another replica.
        """
        self._replicas.unroute(replicas)
        await self._complete(self._drain(replicas))

    async def _drain(self, replicas: list[TrackedReplica]) -> None:
        await self._state.save_in_any_case()  # no later step would end a replica without a route
        await self._state.spread()
        await self._replicas.retire(replicas)

    async def _complete(self, work: Coroutine[Any, Any, None]) -> None:
        """Run *work* to its end, even if a change interrupts the repair that calls this.

        Otherwise a replica could stay in the middle: no router has it, and it never ends.
        """
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await asyncio.shield(task)

    async def _repair(self, name: str) -> bool:
        """Try once to bring backend *name* to its number of replicas. Return whether nothing is left to do."""
        done = await self._try_repair(name)
        await self._state.restored(name)
        return done

    async def _try_repair(self, name: str) -> bool:
        async with self._lock(name):
            backend = self._state.wanted.backends.get(name)
            if backend is None:
                self.repairs.start_failures.pop(name, None)
                return True
            if await self._end_strays(name):
                return False
            running = self._replicas.of(name, ReplicaState.STARTING, *SERVING)
            missing = backend.config.num_replicas - len(running)
            if backend.unfinished is None and missing < 0:  # a former controller had started to scale the backend down
                await self._withdraw(running[missing:])
                return False  # a replica that was lost during the drain has not begun another repair
            if backend.unfinished is None and missing == 0:
                return True
            try:
                if backend.unfinished is not None:
                    await self._rolling.undo(backend)
                elif room := self._room_for(backend, missing):
                    await self._launch(backend, room, all_or_none=False)
                else:
                    await asyncio.sleep(LOOK_S)  # a draining replica still has its resources
                    return False
            except Exception as error:  # any error: without another try, the backend would lack replicas for good
                self.repairs.start_failures[name].note(str(error))
                _logger.warning("backend %r: %s", name, error)
            # A change may interrupt the repair here, and then fail. Routers must get the started replicas all the same.
            await self._complete(self._settle())
            return False

    async def _end_strays(self, name: str) -> bool:
        """End the replicas of *name* with code that no router uses; return whether there were any.

        The change that replaced their code was interrupted after its commit, before it ended them. They must not count
        as replicas of the next change, which may also give their revision to other code.
        """
        backend = self._state.wanted.backends.get(name)
        routed = frozenset[int]() if backend is None else backend.routed_revisions
        strays = [replica for replica in self._replicas.of(name, *SERVING) if replica.revision not in routed]
        if strays:
            await self._withdraw(strays)
        return bool(strays)

    def _room_for(self, backend: BackendSpec, missing: int) -> int:
        """Return how many of the *missing* replicas may start now, beside the draining ones."""
        if backend.config.max_surge is None:
            return missing
        running = len(self._replicas.of(backend.name, *RUNNING))
        return max(0, min(missing, backend.config.num_replicas + backend.config.max_surge - running))

    async def _settle(self) -> None:
        """Checkpoint and publish what a repair has started.

        A next controller ends replicas whose addresses it does not know, so the checkpoint comes first.
        """
        await self._state.save_in_any_case()
        await self._state.publish()
