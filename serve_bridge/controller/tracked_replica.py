"""One replica as the controller sees it: its state, its options, and for how long it has been ready."""

from __future__ import annotations

import asyncio
import time
from typing import ClassVar, Final

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.controller.checkpoint import ReplicaSnapshot
from serve_bridge.controller.lifecycle import ReplicaEvent, ReplicaState, advance
from serve_bridge.controller.tracked_process import TrackedProcess
from serve_bridge.wire.keys import Role

CRASH_S: Final = 5.0
"""A death within this many seconds after the replica became ready counts as a failed start."""
SERVING: Final = (ReplicaState.READY, ReplicaState.UNHEALTHY)
"""The states in which a replica may hold requests and is not about to end."""
RUNNING: Final = (ReplicaState.STARTING, *SERVING, ReplicaState.DRAINING)
"""The states in which a replica has a process."""


class TrackedReplica(TrackedProcess):
    """One replica.

    Attributes:
        backend, revision: The backend, and the revision of its code.
        config: Its options, with the defaults filled in.
        state: Its state.
        probing: The task of its health probes.
        reconfiguring: Whether user code takes a new `user_config`. No probe counts during this time.
    """

    kind: ClassVar[str] = "replica"
    role: ClassVar[Role] = Role.PYTHON

    def __init__(self, id: str, backend: str, revision: int, config: BackendConfig) -> None:
        super().__init__(id)
        self.backend = backend
        self.revision = revision
        self.config = config
        self.state: ReplicaState = ReplicaState.STARTING
        self.probing: asyncio.Task[None] | None = None
        self.reconfiguring = False
        self._ready_since: float | None = None

    @property
    def snapshot(self) -> ReplicaSnapshot:
        """The replica, for the checkpoint."""
        retired = self.state is ReplicaState.DRAINING
        return ReplicaSnapshot(self.id, self.backend, self.revision, self.address, retired)

    @property
    def is_serving(self) -> bool:
        """Whether it may hold requests and is not about to end."""
        return self.state in SERVING

    @property
    def described(self) -> str:
        """Its state; "unreachable" if it serves, but has no connection to the controller (routers may reach it)."""
        return "unreachable" if self.is_serving and self.connection is None else str(self.state)

    def take(self, event: ReplicaEvent) -> None:
        """Move to the next state after *event*."""
        self.state = advance(self.state, event)
        if self._ready_since is None and self.state is ReplicaState.READY:
            self._ready_since = time.monotonic()

    def crashed(self) -> bool:
        """Whether it died soon after it became ready."""
        return self.state is ReplicaState.STOPPED and not self.has_lasted()

    def has_lasted(self) -> bool:
        """Whether it has been ready for too long for its death to count as a failed start."""
        return self._ready_since is not None and time.monotonic() - self._ready_since >= CRASH_S
