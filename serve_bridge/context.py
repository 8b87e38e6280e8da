"""The context of running code: its replica, the id of its request, and the time left for the request.

Rule 1: contextvars carry the values, so the threads and tasks of a request have its values. A thread made by user code
    has none. If its process is one replica, it gets the replica's values, and values on which all running requests
    agree.
Rule 2: views of a web application have the id found by their adapter. If the framework knows the running request, the
    adapter is asked for the id.
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
    """The replica in which code runs.

    Attributes:
        backend: Name of the backend.
        replica: Id of the replica, unique in the instance.
        generation: Id of this start of the instance.
    """

    backend: str
    replica: str
    generation: str


replica_context: ContextVar[ReplicaContext | None] = ContextVar("serve_bridge_replica", default=None)
request_deadline: ContextVar[float | None] = ContextVar("serve_bridge_deadline", default=None)
"""The deadline of the running request, by `time.monotonic`."""
running_request: ContextVar[str | None] = ContextVar("serve_bridge_request_id", default=None)
"""The id of the running request. `request_id` returns it, and knows further sources."""

_own_replica: ReplicaContext | None = None
"""The replica of this process, if the process is one replica and nothing else."""
_running: Final[dict[object, tuple[float | None, str | None]]] = {}
"""Deadline and id of each running request in this process, by its task."""

_VALID_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_sources: list[Callable[[], str | None]] = []


def own_process(context: ReplicaContext) -> None:
    """Note that this process is one replica and nothing else, as an actor on Ray is."""
    global _own_replica
    _own_replica = context


def current_replica() -> ReplicaContext | None:
    """Return the replica in which the calling code runs; None outside of replicas."""
    return replica_context.get() or _own_replica


def begin_request(deadline: float, request_id: str | None) -> None:
    """Begin a request in the running task, until `end_request`. *deadline* is by `time.monotonic`."""
    request_deadline.set(deadline)
    running_request.set(request_id)
    _running[asyncio.current_task()] = deadline, request_id


def lift_deadline() -> None:
    """Remove the deadline of the running task's request."""
    request_deadline.set(None)
    task = asyncio.current_task()
    if task in _running:
        _running[task] = None, _running[task][1]


def end_request() -> None:
    """End the request of the running task."""
    _running.pop(asyncio.current_task(), None)


def _is_strange_thread() -> bool:
    """Return whether the calling code runs in a replica's process, in a thread made by user code."""
    return _own_replica is not None and replica_context.get() is None


def _deadline() -> float | None:
    """Return the deadline of the running request. In a thread made by user code, return the latest deadline of all."""
    deadline = request_deadline.get()
    if deadline is None and _is_strange_thread():
        deadlines = [found for found, _ in list(_running.values())]
        return None if None in deadlines else max(deadlines, default=None)  # type: ignore[type-var]  # there is no None
    return deadline


def get_replica_context() -> ReplicaContext:
    """Return the backend and the replica in which the calling code runs.

    Raises:
        RuntimeError: The calling code does not run in a replica.
    """
    context = current_replica()
    if context is None:
        raise RuntimeError("get_replica_context() works inside a replica only; this code runs elsewhere")
    return context


def time_left() -> float | None:
    """Return the seconds until the caller of the running request gives it up; 0 if its time is up.

    It works in all code of the request: `async def` and `def` functions, generators and the functions that they call. A
    batch has the time of its request with the latest deadline. On Ray, a thread made by user code has the time of the
    replica's request with the latest deadline. The result is None if no request runs here, or if it has no deadline, as
    an open WebSocket.
    """
    deadline = _deadline()
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def within_time_left(timeout_s: float) -> float:
    """Return *timeout_s*, or the time left of the running request if that is shorter. It may be negative."""
    deadline = _deadline()
    return timeout_s if deadline is None else min(timeout_s, deadline - time.monotonic())


def request_id() -> str | None:
    """Return the id of the running request. Logs and the header `X-Request-Id` of the answer have the same id.

    It works in all code of the request: `async def` and `def` functions, generators, background tasks and WebSockets.
    The replicas that answer the request's calls of handles have the same id. A call without a request has an id of its
    own. In the views of a web application, it is the id found by the adapter's extension or middleware.

    A batch has the common id of its requests. If they differ, the result is None, and each request has its own id in
    `request.headers["x-request-id"]`. On Ray, a thread made by user code has the common id of the replica's running
    requests in the same way. The result is None if no request runs here.
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
    """Let `request_id` ask *source* outside of the engine's requests. *source* returns None if it has no id."""
    if source not in _sources:
        _sources.append(source)


def valid_request_id(text: object) -> str | None:
    """Return *text* if it is a valid id from a client: 1 to 128 letters, digits, `.`, `_` and `-`. Otherwise None."""
    return text if isinstance(text, str) and _VALID_ID.fullmatch(text) else None


def new_request_id() -> str:
    """Return a new id: 16 hexadecimal digits."""
    # There is no prefix for each process, because forked workers would share it. `random` seeds itself again after a
    # fork, and needs no system call for each request.
    return f"{getrandbits(64):016x}"


@contextmanager
def in_request(given: object) -> Iterator[str]:
    """Run the block as part of the request with the header X-Request-Id *given*, and yield the id of the request.

    *given* is None for a request without the header. Without a valid header, the id is that of the running request. If
    no request runs, it is a new id.
    """
    found = valid_request_id(given) or request_id() or new_request_id()
    token = running_request.set(found)
    try:
        yield found
    finally:
        running_request.reset(token)


class RequestIdFilter(logging.Filter):
    """A filter for logging handlers. It gives each record the attribute `request_id`, which is "-" outside of requests.

    If a record already has the attribute, the filter keeps it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Set the attribute, and let the record pass."""
        if not hasattr(record, "request_id"):
            record.request_id = request_id() or "-"
        return True
