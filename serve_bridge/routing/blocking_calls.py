"""Requests of synchronous callers on blocking sockets. The calling thread sends them, without the loop thread.

Rule 1: Only simple requests are sent here: with a short body, without shadows, and with no other request in the queue.
    For all others, and after every rejection, `send` returns None and the router sends the request.
Rule 2: After a failure, a request is left to the router only if the router's own Rule 2 allows a retry. The time and
    the retry that the request has spent count there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from serve_bridge.errors import AuthenticationError, DeadlineExceeded, ReplicaDied
from serve_bridge.routing.outgoing_request import OutgoingRequest
from serve_bridge.routing.router import Router
from serve_bridge.routing.threadsafe_replica_sets import Place, ThreadsafeReplicaSets
from serve_bridge.routing_table import BackendRoute
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.blocking_end import BlockingConnection
from serve_bridge.wire.blocking_stream import BlockingStream
from serve_bridge.wire.endings import Lost, Rejected
from serve_bridge.wire.keys import CLIENTS, Key
from serve_bridge.wire.shortage import keep

_Result = TypeVar("_Result")


class _Idle:
    """The idle connections to one replica. One thread at a time uses a connection. List operations are atomic."""

    __slots__ = ("address", "connections")

    def __init__(self, address: SocketAddress) -> None:
        self.address = address
        self.connections: list[BlockingConnection] = []

    def close(self) -> int:
        """Close all connections; return their number."""
        count = 0
        while self.connections:
            with contextlib.suppress(IndexError):  # another thread has taken the last connection
                self.connections.pop().close()
                count += 1
        return count


class PendingAnswer:
    """The answer to a blocking call. It holds its slot until it has arrived, or is closed.

    Attributes:
        head: The head of the answer, encoded.
    """

    __slots__ = ("_answer", "_overdue", "_release", "head")

    def __init__(
        self, answer: BlockingStream, release: Callable[[int], None], overdue: Callable[[], DeadlineExceeded]
    ) -> None:
        self.head: bytes = answer.head
        self._answer = answer
        self._overdue = overdue
        self._release: Callable[[int], None] | None = release
        if answer.ended:
            self.close()

    @property
    def ended(self) -> bool:
        """Whether the whole answer has arrived. Parts of it may still be unread."""
        return self._answer.ended

    def next_part(self) -> bytes | None:
        """Return the next part of the body; None after the last.

        Raises:
            DeadlineExceeded: The deadline has passed; the work is cancelled.
            ReplicaDied: The replica died before the end of the body.
        """
        return self._attempt(self._answer.next_part)

    def receive(self, size: int) -> None:
        """Wait for the whole body, which has *size* bytes. Its slot is free then. Raises as `next_part`."""
        self._attempt(lambda: self._answer.receive(size))

    def read(self) -> bytes:
        """Return the rest of the body; raises as `next_part`."""
        return b"".join(iter(self.next_part, None))

    def read_whole(self, size: int) -> memoryview:
        """Return the whole body, which has *size* bytes; raises as `next_part`.

        Raises:
            ProtocolError: The body has another size.
        """
        return self._attempt(lambda: self._answer.read(size))

    def _attempt(self, work: Callable[[], _Result]) -> _Result:
        try:
            result = work()
        except Lost as lost:
            self.close()
            raise ReplicaDied(f"the replica died before the whole answer had arrived: {lost.why}", "unknown") from None
        except DeadlineExceeded:
            self.close()
            raise self._overdue() from None
        except BaseException:
            self.close()
            raise
        if self._answer.ended:
            self.close()
        return result

    def close(self) -> None:
        """Drop the rest of the answer. The replica stops the work if it can."""
        release, self._release = self._release, None
        if release is not None:
            release(self._answer.load)


class BlockingCalls:
    """The blocking connections of one process to one instance. Any thread may use them."""

    def __init__(self, key: Key, generation: str) -> None:
        self._key = key
        self._generation = generation
        self._role = key.strongest(*CLIENTS)
        self._replicas: ThreadsafeReplicaSets[_Idle] = ThreadsafeReplicaSets(
            _Idle, limit=_limit, disconnect=_Idle.close
        )
        keep(self)

    def send(self, router: Router, request: OutgoingRequest) -> PendingAnswer | None:
        """Send *request* and wait for the head of the answer; None: *router* must send it.

        Raises:
            EndpointNotFound: There is no such endpoint.
            DeadlineExceeded: The deadline has passed; the work is cancelled.
            ReplicaDied: The replica died after the request was sent.
        """
        table = router.table
        if request.body is not None or table is None:
            return None
        backend = router.backend_for_blocking_call(request)
        if backend is None:
            return None
        began = time.monotonic()
        place = Place(self._replicas, backend)
        connection = answer = None
        try:
            slot = self._replicas.acquire(table, place)
            if slot is None:
                return None
            connection = self._connection(slot.peer)
            head = request.encode(backend, table.version, request.timeout_s)
            answer = connection.exchange(
                request.kind, head, request.timeout_s, lambda: router.suspect(backend, slot.name)
            )
            release = partial(self._end, answer, router, place, connection)
            return PendingAnswer(answer, release, partial(router.overdue, request, "unknown"))
        except DeadlineExceeded:
            raise router.overdue(request, "unknown") from None
        except (Rejected, AuthenticationError):
            pass  # the router gets the same error, and handles it
        except Lost as lost:
            if lost.started != "no":
                if not router.may_retry(request):
                    raise ReplicaDied(f"the replica died before it answered: {lost.why}", "unknown") from None
                request.retried = True
        finally:
            if answer is None:
                self._release(router, place, connection)
        request.timeout_s -= time.monotonic() - began
        return None

    def _connection(self, idle: _Idle) -> BlockingConnection:
        try:
            return idle.connections.pop()
        except IndexError:
            return BlockingConnection(idle.address, self._key, self._generation, self._role)

    def _end(
        self, answer: BlockingStream, router: Router, place: Place[_Idle], connection: BlockingConnection, load: int
    ) -> None:
        if not answer.ended:
            connection.close()
        self._release(router, place, connection, load if answer.ended else None)

    def _release(
        self, router: Router, place: Place[_Idle], connection: BlockingConnection | None, load: int | None = None
    ) -> None:
        slot = place.slot
        self._replicas.release(place, load)
        if slot is None:
            return
        router.slot_released(place.backend)
        if connection is not None and not connection.closed:
            slot.peer.connections.append(connection)
            if not slot.member:  # the replica was dropped, so its connections must be closed here
                slot.peer.close()

    def give_back(self) -> int:
        """Close every idle connection, since this process lacks descriptors or memory; return their number."""
        return sum(idle.close() for idle in self._replicas.peers())

    def close(self) -> None:
        """Close every idle connection."""
        self._replicas.close()


def _limit(route: BackendRoute) -> int:
    return route.max_concurrent_queries
