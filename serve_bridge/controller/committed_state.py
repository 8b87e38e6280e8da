"""The record of one instance: what is wanted, as it was checkpointed and as routers know it.

Rule 1: a change is checkpointed before it counts; one that is refused or cannot be checkpointed leaves everything
        as it was.
Rule 2: checkpoints are written one after another, or an older one could come last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from serve_bridge.controller.checkpoint import Checkpoint, Checkpoints
from serve_bridge.controller.proxies import Proxies
from serve_bridge.controller.replicas import Replicas
from serve_bridge.controller.table_publisher import TablePublisher
from serve_bridge.controller.wanted_state import WantedState

ACKNOWLEDGE_S: Final = 2.0
"""How long a change waits for a router that does not acknowledge its table."""
UNKNOWN_VERSIONS: Final = 1000
"""Far more tables than can have been published after the last checkpoint."""

_Result = TypeVar("_Result")


class CommittedState:
    """What is wanted, its checkpoint, and its routing table.

    Attributes:
        wanted: To be changed by `change` only.
        version: Of the newest routing table.
        tcp_port: Where the controller listens for other nodes; 0: nowhere yet.
        publisher: Feeds the routers.
    """

    def __init__(self, generation: str, checkpoints: Checkpoints, replicas: Replicas, proxies: Proxies) -> None:
        self._generation = generation
        self._checkpoints = checkpoints
        self._replicas = replicas
        self._proxies = proxies
        self._commit = asyncio.Lock()
        self.publisher = TablePublisher()
        self.wanted = WantedState()
        self.version = 0
        self.tcp_port = 0

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from *checkpoint*."""
        self.wanted = checkpoint.wanted
        self.version = checkpoint.version + UNKNOWN_VERSIONS
        self.tcp_port = checkpoint.tcp_port

    async def change(self, apply: Callable[[WantedState], _Result]) -> _Result:
        """Apply a change to a copy of what is wanted; checkpoint and publish it; wait until routers have it."""
        async with self._commit:
            draft = self.wanted.copy()
            result = apply(draft)
            await self._write(draft)
            self.wanted = draft
        await self.spread()
        return result

    async def note(self, apply: Callable[[WantedState], object]) -> None:
        """Apply a change that no router needs to know to a copy of what is wanted, and checkpoint it."""
        async with self._commit:
            draft = self.wanted.copy()
            apply(draft)
            await self._write(draft)
            self.wanted = draft

    async def publish(self) -> int:
        """Send routers what is wanted and ready by now; return the table's version."""
        self.version += 1
        version = self.version
        revisions = {name: backend.revision for name, backend in self.wanted.backends.items()}
        table = self.wanted.table(self._generation, version, self._replicas.ready(revisions))
        proxies = tuple(proxy.address for proxy in self._proxies.snapshots)
        await self.publisher.publish(msgspec.structs.replace(table, proxies=proxies))
        return version

    async def spread(self) -> None:
        """Publish, and wait until routers have it, except those of the process that asked for the change."""
        await self.publisher.acknowledged(await self.publish(), ACKNOWLEDGE_S)

    async def save(self) -> None:
        """Checkpoint what is wanted and what runs."""
        async with self._commit:
            await self._write(self.wanted)

    async def _write(self, wanted: WantedState) -> None:
        """Checkpoint *wanted* and what runs; by who holds `_commit` (Rule 2)."""
        await self._checkpoints.save(
            Checkpoint(
                wanted=wanted,
                version=self.version + 1,
                http_port=self._proxies.port,
                tcp_port=self.tcp_port,
                proxies=self._proxies.snapshots,
                replicas=self._replicas.snapshots,
            )
        )
