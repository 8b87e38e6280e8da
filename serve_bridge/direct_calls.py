"""Python calls that a synchronous caller makes itself, over a blocking socket, past the loop thread.

Rule 1: only what is simple goes this way: short arguments, one answer, nobody waiting before it, no shadows. For
        anything else, and for every rejection, `exchange` returns None and the router takes over.
Rule 2: a request is given up to the router only where `router` Rule 2 would send it again. What it has spent by then,
        of its time and of the one retry, goes with it.
"""

from __future__ import annotations

import time

from serve_bridge.errors import AuthenticationError, ReplicaDied
from serve_bridge.messages import BackendRoute, ReplicaAddress
from serve_bridge.router import Outgoing, Router
from serve_bridge.shared_replicas import SharedReplicas
from serve_bridge.wire.auth import Key, Role
from serve_bridge.wire.blocking import BlockingConnection
from serve_bridge.wire.body import Lost, Rejected


class _Idle:
    """A replica's idle connections; each is used by one thread at a time. List operations are atomic."""

    __slots__ = ("address", "connections")

    def __init__(self, address: ReplicaAddress) -> None:
        self.address = address
        self.connections: list[BlockingConnection] = []

    def close(self) -> None:
        while self.connections:
            self.connections.pop().close()


class DirectCalls:
    """The blocking connections of one client and process; used by any thread."""

    def __init__(self, key: Key, generation: str) -> None:
        self._key = key
        self._generation = generation
        self._replicas: SharedReplicas[_Idle] = SharedReplicas(_Idle, limit=_limit, unlink=_Idle.close)

    def exchange(self, router: Router, request: Outgoing) -> tuple[bytes, bytes] | None:
        """Return the head and body of the answer; None if *request* has to go through *router*.

        Raises:
            EndpointNotFound: There is no such endpoint.
            DeadlineExceeded: No answer in time; the work is cancelled.
            ReplicaDied: The replica died after the request was sent.
        """
        table = router.table
        if request.body is not None or table is None:
            return None
        backend = router.bypass(request)
        slot = self._replicas.acquire(table, backend) if backend is not None else None
        if backend is None or slot is None:
            return None
        idle, load = slot.link, slot.load
        began = time.monotonic()
        connection = None
        try:
            try:
                connection = idle.connections.pop()
            except IndexError:
                connection = BlockingConnection(idle.address, self._key, self._generation, Role.PYTHON)
            head = request.encode(backend, table.version, request.timeout_s)
            answer, body, load = connection.exchange(
                request.kind, head, request.timeout_s, lambda: router.doubt(backend, slot.name)
            )
        except (Rejected, AuthenticationError):
            pass  # the router meets the same, and knows what follows from it
        except Lost as lost:
            if lost.started != "no":
                if not router.may_retry(request):
                    raise ReplicaDied(f"the replica died before it answered: {lost.why}", "unknown") from None
                request.retried = True
        else:
            return answer, body
        finally:
            self._replicas.release(backend, slot, load)
            router.slot_freed(backend)
            if connection is not None and not connection.closed:
                idle.connections.append(connection)
                if not slot.member:  # the replica was dropped meanwhile, and nobody will look here again
                    idle.close()
        request.timeout_s -= time.monotonic() - began
        return None

    def close(self) -> None:
        """Close every idle connection."""
        self._replicas.close()


def _limit(route: BackendRoute) -> int:
    return route.max_concurrent_queries
