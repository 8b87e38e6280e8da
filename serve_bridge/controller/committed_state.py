"""The committed state of an instance: the wanted state, as it was checkpointed and published.

Rule 1: a change counts once it is in the kept state (see `kept_state`) and checkpointed. A change that is refused, or
    cannot be written to both, leaves everything as it was.
Rule 2: checkpoints are written one after another. Otherwise an older one could overwrite a newer one.
Rule 3: a table lists a replica only if a checkpoint has its address, since a next controller ends the other ones.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from serve_bridge.controller.checkpoint import Checkpoint, Checkpoints
from serve_bridge.controller.kept_state import KeptState
from serve_bridge.controller.proxies import Proxies
from serve_bridge.controller.replicas import Replicas
from serve_bridge.controller.table_publisher import TablePublisher
from serve_bridge.controller.wanted_state import WantedState
from serve_bridge.errors import ControlPlaneLost
from serve_bridge.process.backoff import Backoff

ACKNOWLEDGE_S: Final = 2.0
"""Upper limit for the wait of a change until the routers have acknowledged its table, in seconds."""
UNKNOWN_VERSIONS: Final = 1000
"""A recovered controller skips this many versions, since tables may have been published after the last checkpoint."""

SAVE_AGAIN: Final = Backoff(shortest_s=0.5, longest_s=5.0)
"""Waits between the tries to write the checkpoint after a refused change, in seconds."""

_logger = logging.getLogger("serve_bridge.controller")

_Result = TypeVar("_Result")


class CommittedState:
    """The wanted state, its checkpoint, and its routing table.

    Attributes:
        wanted: The wanted state; only `change` and `note` replace it.
        version: Version of the newest routing table.
        tcp_port: Port of the controller for other nodes; 0: it has none yet.
        publisher: Sends the table to the routers.
        restoring: Names of the backends of a former instance whose replicas have not been started yet.
    """

    def __init__(
        self, generation: str, checkpoints: Checkpoints, kept: KeptState, replicas: Replicas, proxies: Proxies
    ) -> None:
        self._generation = generation
        self._checkpoints = checkpoints
        self._kept = kept
        self._replicas = replicas
        self._proxies = proxies
        self._commit = asyncio.Lock()
        self.publisher: TablePublisher = TablePublisher()
        self.wanted: WantedState = WantedState()
        self.version: int = 0
        self.tcp_port: int = 0
        self.restoring: set[str] = set()
        self._saving: asyncio.Task[None] | None = None
        self._checkpointed: frozenset[str] = frozenset()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over the state of *checkpoint*."""
        self.wanted = checkpoint.wanted
        self.version = checkpoint.version + UNKNOWN_VERSIONS
        self.tcp_port = checkpoint.tcp_port
        self._checkpointed = _addressed(checkpoint)

    async def change(self, apply: Callable[[WantedState], _Result]) -> _Result:
        """Apply a change to a copy of the wanted state, checkpoint and publish it, and wait until routers have it."""
        async with self._commit:
            draft = self.wanted.copy()
            result = apply(draft)
            await self._commit_draft(draft)
        await self.spread()
        return result

    async def note(self, apply: Callable[[WantedState], object]) -> None:
        """Apply a change without an effect on routing to a copy of the wanted state, and checkpoint it."""
        async with self._commit:
            draft = self.wanted.copy()
            apply(draft)
            await self._commit_draft(draft)

    async def begin(self) -> None:
        """Write the first state of a new instance, which may be that of a former one.

        Raises:
            OSError: The kept state cannot be written.
        """
        for backend in self.wanted.backends.values():
            await self._checkpoints.save_code(backend)
        async with self._commit:
            await self._kept.begin(self.wanted)
            await self._write(self.wanted)

    async def publish(self) -> int:
        """Publish a table of the wanted state and the ready replicas that are checkpointed; return its version."""
        self.version += 1
        version = self.version
        revisions = {name: backend.routed_revisions for name, backend in self.wanted.backends.items()}
        ready = {
            name: tuple(address for address in addresses if address.name in self._checkpointed)
            for name, addresses in self._replicas.ready(revisions).items()
        }
        table = self.wanted.table(self._generation, version, ready)
        proxies = tuple(proxy.address for proxy in self._proxies.snapshots)
        await self.publisher.publish(msgspec.structs.replace(table, proxies=proxies, restoring=tuple(self.restoring)))
        return version

    async def spread(self) -> None:
        """Publish, and wait until the routers have the table, except those of the caller's process."""
        await self.publisher.acknowledged(await self.publish(), ACKNOWLEDGE_S)

    async def save(self) -> None:
        """Checkpoint the wanted state and the running processes."""
        async with self._commit:
            await self._write(self.wanted)

    async def save_in_any_case(self) -> None:
        """Do the same as `save`. If the store does not answer now, save and publish once it does."""
        try:
            await self.save()
        except ControlPlaneLost as error:
            _logger.warning("the checkpoint is not written yet: %s", error)
            self._save_later()

    async def restored(self, name: str) -> None:
        """Note that the replicas of backend *name* have been started, or have failed to start, for the first time."""
        if name in self.restoring:
            self.restoring.discard(name)
            await self.publish()

    async def _commit_draft(self, draft: WantedState) -> None:
        """Write *draft* to the kept state and to the checkpoint, and make it the wanted state.

        The kept state comes first: a disk is full more often than the store of the checkpoint fails.
        """
        await self._kept.write(draft)
        try:
            await self._write(draft)
        except BaseException as error:
            await self._kept.write(self.wanted, keep_previous=False)
            if isinstance(error, ControlPlaneLost):
                self._save_later()
            raise
        self.wanted = draft

    def _save_later(self) -> None:
        """Checkpoint the wanted state once the store answers: the refused checkpoint may be written late."""
        if self._saving is None or self._saving.done():
            self._saving = asyncio.get_running_loop().create_task(self._save_again())

    async def _save_again(self) -> None:
        for wait_s in SAVE_AGAIN.waits_s():
            await asyncio.sleep(wait_s)
            try:
                await self.save()
                await self.publish()
            except Exception as error:  # any error: the refused checkpoint must not be the last one
                _logger.debug("the checkpoint is not written yet: %s", error)
            else:
                return

    def close(self) -> None:
        """Write no more checkpoints."""
        if self._saving is not None:
            self._saving.cancel()

    async def _write(self, wanted: WantedState) -> None:
        """Checkpoint *wanted* and the running processes. The caller holds `_commit` (Rule 2)."""
        checkpoint = Checkpoint(
            wanted=wanted,
            version=self.version + 1,
            http_port=self._proxies.port,
            tcp_port=self.tcp_port,
            proxies=self._proxies.snapshots,
            replicas=self._replicas.snapshots,
        )
        await self._checkpoints.save(checkpoint)
        self._checkpointed = _addressed(checkpoint)


def _addressed(checkpoint: Checkpoint) -> frozenset[str]:
    """Return the ids of the replicas whose address *checkpoint* has."""
    return frozenset(replica.id for replica in checkpoint.replicas if replica.address is not None)
