"""What running code can learn: its replica, its request's id, and how much time that request has left.

Rule 1: values travel by contextvars, so threads and tasks of one request see their own. A thread that user code makes
    has none: in a process that is one replica it sees the replica, and what the requests that run there agree on.
Rule 2: a web application's own views have the id that their adapter found; an adapter whose framework knows the
    running request is asked for it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from random import getrandbits
from typing import Final


@dataclass(frozen=True, slots=True)
class ReplicaContext:
    """Where the running code is.

    Attributes:
        backend: Name of the backend.
        replica: Id of this replica, unique in the instance.
        generation: Which start of the instance this is.
    """

    backend: str
    replica: str
    generation: str


replica_context: ContextVar[ReplicaContext | None] = ContextVar("serve_bridge_replica", default=None)
request_deadline: ContextVar[float | None] = ContextVar("serve_bridge_deadline", default=None)
"""When the running request's time is up, by `time.monotonic`."""
running_request: ContextVar[str | None] = ContextVar("serve_bridge_request_id", default=None)
"""The id of the running request; code asks `request_id` for it, which knows more."""

_own_replica: ReplicaContext | None = None
"""What this process is, if it is one replica and nothing else."""
_running: Final[dict[object, tuple[float | None, str | None]]] = {}
"""Deadline and id of each request that runs in this process, by its task."""

_VALID_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_sources: list[Callable[[], str | None]] = []


def own_process(context: ReplicaContext) -> None:
    """Note that this process is the replica of *context*, and nothing else, as an actor on Ray is."""
    global _own_replica
    _own_replica = context


def current_replica() -> ReplicaContext | None:
    """Return the replica that the calling code runs in; None if it runs in none."""
    return replica_context.get() or _own_replica


def begin_request(deadline: float, request_id: str | None) -> None:
    """Let the running task serve a request until `end_request`; *deadline* is by `time.monotonic`."""
    request_deadline.set(deadline)
    running_request.set(request_id)
    _running[asyncio.current_task()] = deadline, request_id


def lift_deadline() -> None:
    """Let the request that the running task serves take as long as it likes from now on."""
    request_deadline.set(None)
    task = asyncio.current_task()
    if task in _running:
        _running[task] = None, _running[task][1]


def end_request() -> None:
    """End what `begin_request` has begun."""
    _running.pop(asyncio.current_task(), None)


def _is_strange_thread() -> bool:
    """Whether the calling code runs in a replica's process, but in a thread without a request's values."""
    return _own_replica is not None and replica_context.get() is None


def _deadline() -> float | None:
    """Return when the time of the running request is up; in a thread of user code, of the request that has longest."""
    deadline = request_deadline.get()
    if deadline is None and _is_strange_thread():
        deadlines = [found for found, _ in list(_running.values())]
        return None if None in deadlines else max(deadlines, default=None)  # type: ignore[type-var]  # there is no None
    return deadline


def get_replica_context() -> ReplicaContext:
    """Return which backend and replica the calling code runs in.

    Raises:
        RuntimeError: The caller does not run inside a replica.
    """
    context = current_replica()
    if context is None:
        raise RuntimeError("get_replica_context() works inside a replica only; this code runs elsewhere")
    return context


def time_left() -> float | None:
    """Return how many seconds the request that runs here has left, before its caller gives it up; 0 if none.

    It counts in everything that the request runs: `async def` and `def` code, generators, what they call. A batch has
    as long as the one of its requests that has longest; so has a thread that user code made, on Ray, as long as the one
    of the replica's requests that has longest. None: nothing is being served here, or it has no limit, as an open
    WebSocket has none.
    """
    deadline = _deadline()
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def within_time_left(timeout_s: float) -> float:
    """Return *timeout_s*, or what the request that makes a call has left, if that is less; not above 0 if none."""
    deadline = _deadline()
    return timeout_s if deadline is None else min(timeout_s, deadline - time.monotonic())


def request_id() -> str | None:
    """Return the id of the request that runs here: what logs and the header `X-Request-Id` of its answer say.

    It counts in everything that the request runs: `async def` and `def` code, generators, background tasks, WebSockets,
    and in the calls of handles that it makes, down to the replicas that answer them. A call that belongs to no request
    has an id of its own. In the views of a web application it is the id that the adapter's extension or middleware
    found. A batch has the id that all of its requests share; if they differ it is None, and each request has its own
    in `request.headers["x-request-id"]`. The same holds for a thread that user code made, on Ray, and the requests that
    run in the replica. None: nothing is being served here.
    """
    found = running_request.get()
    if found is None and _is_strange_thread():
        ids = {found for _, found in list(_running.values())}
        return ids.pop() if len(ids) == 1 else None
    if found is None:
        for source in _sources:
            found = source()
            if found is not None:
                return found
    return found


def add_request_id_source(source: Callable[[], str | None]) -> None:
    """Have `request_id` ask *source* where no request of the engine runs; it returns None if it knows of none."""
    if source not in _sources:
        _sources.append(source)


def valid_request_id(text: object) -> str | None:
    """Return *text* if a client may choose it as the id of its request: 1 to 128 letters, digits, `.`, `_` and `-`."""
    return text if isinstance(text, str) and _VALID_ID.fullmatch(text) else None


def new_request_id() -> str:
    """Return a new id: 16 hexadecimal digits."""
    # Not a prefix for each process: forked workers would share it. `random` seeds itself again after a fork, and makes
    # no system call for each request.
    return f"{getrandbits(64):016x}"


@contextmanager
def in_request(given: object) -> Iterator[str]:
    """Let what runs meanwhile belong to the request whose header X-Request-Id is *given*; None: it has none.

    It yields the id.

    A header that is not valid does not count. Then the id is that of the request that runs here already, or a new one.
    """
    found = valid_request_id(given) or request_id() or new_request_id()
    token = running_request.set(found)
    try:
        yield found
    finally:
        running_request.reset(token)


class RequestIdFilter(logging.Filter):
    """A filter for logging handlers that gives each record the attribute `request_id`, "-" outside of a request.

    A record that has the attribute already keeps it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Set the attribute, and let the record pass."""
        if not hasattr(record, "request_id"):
            record.request_id = request_id() or "-"
        return True
