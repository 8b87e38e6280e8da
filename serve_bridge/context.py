"""What code inside a replica can learn about where it runs, and how much time its request has left.

Rule 1: values travel by contextvars, so threads and tasks of one request see their own.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass

from serve_bridge.errors import NotConnected


@dataclass(frozen=True, slots=True)
class ReplicaContext:
    """Where the running code is.

    Attributes:
        backend: Name of the backend.
        replica: Id of this replica, unique in the instance.
        generation: Which start of the instance this is.
        instance_file: Path of the instance's file; `connect` in a replica takes it.
    """

    backend: str
    replica: str
    generation: str
    instance_file: str


replica_context: ContextVar[ReplicaContext | None] = ContextVar("serve_bridge_replica", default=None)
request_deadline: ContextVar[float | None] = ContextVar("serve_bridge_deadline", default=None)
"""When the running request's time is up, by `time.monotonic`."""


def get_replica_context() -> ReplicaContext:
    """Return which backend and replica the calling code runs in.

    Raises:
        NotConnected: The caller does not run inside a replica.
    """
    context = replica_context.get()
    if context is None:
        raise NotConnected("get_replica_context() works inside a replica only; this code runs elsewhere")
    return context


def time_left() -> float | None:
    """Return how many seconds the request that runs here has left, before its caller gives it up; 0 if none.

    It counts in everything that the request runs: `async def` and `def` code, generators, what they call. A batch has
    as long as the one of its requests that has longest. None: nothing is being served here, or it has no limit, as an
    open WebSocket has none.
    """
    deadline = request_deadline.get()
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def within_time_left(timeout_s: float) -> float:
    """Return *timeout_s*, or what the request that makes a call has left, if that is less; not above 0 if none."""
    deadline = request_deadline.get()
    return timeout_s if deadline is None else min(timeout_s, deadline - time.monotonic())
