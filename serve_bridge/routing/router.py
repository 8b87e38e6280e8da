"""The router of one event loop: it chooses the backend and the replica of a request, and delivers the request.

Rule 1: Only the router's own loop uses it, except for the methods whose docstrings name other threads. It waits for no
    lock, and not for Ray.
Rule 2: The router sends a request again only if it is safe. Either the request provably did not start. Or it is
    idempotent, its whole body is in memory, and the retry budget allows it.
Rule 3: The work for a request is O(1). Decisions of a routing table are computed when the table arrives.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable

from serve_bridge.errors import (
    CALL_HINT,
    BackendError,
    BackendOverloaded,
    DeadlineExceeded,
    EndpointNotFound,
    Executed,
    MethodNotExposed,
    NotConnected,
    NothingStarted,
    ReplicaDied,
    no_answer,
)
from serve_bridge.instance.known_instance import KnownInstance
from serve_bridge.routing.deadlines import Deadlines
from serve_bridge.routing.outgoing_request import OutgoingRequest, Routed
from serve_bridge.routing.replica_peer import LOOK_EVERY_S, ReplicaPeer
from serve_bridge.routing.replica_pool import ReplicaPool
from serve_bridge.routing.replica_set import Slot
from serve_bridge.routing.retry_budget import RetryBudget
from serve_bridge.routing.router_statistics import RouterStatistics
from serve_bridge.routing.shadows import Shadows
from serve_bridge.routing.waiting_line import WaitingRequest
from serve_bridge.routing_table import EndpointRoute, RoutingTable
from serve_bridge.traffic import TrafficPolicy
from serve_bridge.wire.caller_end import CallerStream
from serve_bridge.wire.endings import Aborted, Lost, Rejected
from serve_bridge.wire.frames import Kind
from serve_bridge.wire.heads import Rejection
from serve_bridge.wire.keys import Key, Role


class _Delivery(WaitingRequest[ReplicaPeer]):
    """One request on its way through a pool, over one attempt or several.

    Attributes:
        slot: The slot of the current attempt.
        stream: The stream of the current attempt.
        handed_over: Whether the caller reads the stream now. If so, the deadline covers the body of the answer.
    """

    __slots__ = ("deadlines", "handed_over", "pool", "request", "router", "slot", "stream")

    def __init__(self, router: Router, pool: ReplicaPool, request: OutgoingRequest, deadline: float) -> None:
        super().__init__(deadline)
        self.router = router
        self.pool = pool
        self.request = request
        self.slot: Slot[ReplicaPeer] | None = None
        self.stream: CallerStream | None = None
        self.handed_over = False
        self.deadlines = router.deadlines
        self.deadlines.add(self)

    def expire(self) -> None:
        """End the request at its deadline, whether it waits for a slot or for its answer."""
        self.expired = True
        if self.stream is not None:
            self.stream.cancel(self.router.overdue(self.request, "unknown"))
        else:
            super().expire()

    def too_late(self) -> DeadlineExceeded:
        """Return the error for a request that was not sent before its deadline."""
        return self.router.overdue(self.request, "no")

    def done(self, load: int) -> None:
        """Free the slot: the last frame of the stream has arrived, or never will."""
        slot, self.slot = self.slot, None
        stream, self.stream = self.stream, None
        if self.handed_over:
            self.deadlines.discard(self)
        if slot is None:
            return
        rejection = _rejection_of(stream)
        if rejection is None:
            self.pool.release(slot, load)
        else:
            self.pool.reject(slot, load, rejection.reason)


class Router:
    """Sends requests to replicas, by the newest routing table.

    Attributes:
        table: The newest table; None before the first.
        version: The version of the table; -1 before the first.
        known: What this process knows of the instance, such as the newest table version.
        catch_up: Waits for the newest table for at most the given seconds. None: requests do not wait for tables.
        expects_table_s: Returns the seconds for which a newer table may still come, although the controller is away.
            Set it before the first table.
        deadlines: The deadlines of the requests in flight.
        statistics: The counters of this router.
    """

    def __init__(self, key: Key, role: Role, known: KnownInstance | None = None) -> None:
        self.known: KnownInstance = KnownInstance() if known is None else known
        self.version: int = -1
        self.catch_up: Callable[[float], Awaitable[None]] | None = None
        self.expects_table_s: Callable[[], float] = lambda: 0.0
        self._key = key
        self._role = role
        self._loop = asyncio.get_running_loop()
        self.deadlines: Deadlines = Deadlines(self._loop)
        self._pools: dict[str, ReplicaPool] = {}
        self._closing: list[ReplicaPool] = []
        self._endpoints: dict[str, tuple[EndpointRoute, TrafficPolicy]] = {}
        self._looking = self._loop.call_later(LOOK_EVERY_S, self._look)
        self.table: RoutingTable | None = None
        self.statistics: RouterStatistics = RouterStatistics()
        self._retries = RetryBudget(self.statistics)
        self._shadows = Shadows(self._pools, self._send, self.statistics)

    def apply(self, table: RoutingTable) -> None:
        """Route by *table* from now on. Requests in flight continue."""
        self.table, self.version = table, table.version
        for name, backend in table.backends.items():
            if name in self._pools:
                self._pools[name].apply(backend)
            else:
                self._pools[name] = ReplicaPool(
                    name,
                    backend,
                    key=self._key,
                    generation=table.generation,
                    role=self._role,
                    expects_table_s=self.expects_table_s,
                )
        for name in self._pools.keys() - table.backends.keys():
            pool = self._pools.pop(name)
            pool.close(BackendOverloaded(f"backend {name!r} was deleted"))
            self._closing.append(pool)
        self._closing = [pool for pool in self._closing if not pool.emptied]
        old = self._endpoints
        self._endpoints = {
            name: old[name] if name in old and old[name][0] == endpoint else (endpoint, _policy(endpoint))
            for name, endpoint in table.endpoints.items()
        }

    def close(self) -> None:
        """Drop every connection. Requests in flight fail."""
        self._looking.cancel()
        self.deadlines.close()
        self._shadows.close()
        for pool in [*self._pools.values(), *self._closing]:
            pool.abandon()

    @property
    def behind(self) -> bool:
        """Whether this process knows of a newer table. Any thread may ask."""
        return self.version < self.known.version

    def choose(self, endpoint: str, shard_key: str | None) -> tuple[str, tuple[str, ...]]:
        """Return the backend and the shadows for a request to *endpoint*. Any thread may call it.

        Raises:
            EndpointNotFound: The endpoint was never created, or was deleted.
        """
        policy = self._endpoint(endpoint)[1]
        return self._choose(policy, shard_key, random.random()), policy.shadows_for(random.random)

    def within(self, endpoint: str, timeout_s: float) -> float:
        """Return *timeout_s*, or the time limit of *endpoint* in seconds if it is shorter. Any thread may call it.

        Raises:
            EndpointNotFound: The endpoint was never created, or was deleted.
        """
        limit_s = self._endpoint(endpoint)[0].timeout_s
        return timeout_s if limit_s is None else min(timeout_s, limit_s)

    def overdue(self, request: OutgoingRequest, executed: Executed) -> DeadlineExceeded:
        """Return the error for *request*, whose deadline has passed. Any thread may call it."""
        found = self._endpoints.get(request.endpoint)
        own_s = found[0].timeout_s if found is not None else None
        if own_s is not None and own_s <= request.limit_s:
            return no_answer(request.endpoint, own_s, executed, "the endpoint's own timeout_s is the limit")
        return no_answer(request.endpoint, request.limit_s, executed, CALL_HINT if request.kind == Kind.CALL else "")

    def backend_for_blocking_call(self, request: OutgoingRequest) -> str | None:
        """Return the backend for *request* if the calling thread may send it; None if this router must send it.

        The router must send it if shadows get copies, if other requests wait for the backend, or if a replica of the
        backend cannot be reached. Any thread may call it.

        Raises:
            EndpointNotFound: The endpoint was never created, or was deleted.
            DeadlineExceeded: The deadline of the request has passed.
        """
        policy = self._policy(request)
        if policy.shadows:
            return None
        backend = self._choose(policy, request.shard_key, request.draw)
        pool = self._pools.get(backend)
        return None if pool is None or pool.waiting or not pool.all_usable else backend

    def needs_whole_body(self, request: OutgoingRequest, method: str) -> bool:
        """Return whether *method* of the backend for *request* needs the whole body. Any thread may call it.

        False for an endpoint that does not exist: `route` raises the error.
        """
        found = self._endpoints.get(request.endpoint)
        if found is None:
            return False
        pool = self._pools.get(self._choose(found[1], request.shard_key, request.draw))
        return pool is not None and method not in pool.streaming

    def suspect(self, backend: str, replica: str) -> None:
        """Find out whether *replica* still lives: a blocking caller gets no answer from it.

        Any thread may call it.
        """
        pool = self._pools.get(backend)
        if pool is not None:
            self._loop.call_soon_threadsafe(pool.suspect, replica)

    def slot_released(self, backend: str) -> None:
        """Let waiting requests try *backend* again: a blocking caller's request to it has ended.

        Any thread may call it.
        """
        pool = self._pools.get(backend)
        if pool is not None and pool.waiting:
            self._loop.call_soon_threadsafe(pool.reopen_all)

    def _look(self) -> None:
        now = self._loop.time()
        for pool in self._pools.values():
            pool.look(now)
        self._looking = self._loop.call_later(LOOK_EVERY_S, self._look)

    async def route(self, request: OutgoingRequest, *, deadline_covers_body: bool = True) -> Routed:
        """Send *request* to a replica; return its stream and the RESPONSE frame.

        Without *deadline_covers_body* the deadline limits the head of the answer only, and not its body.

        Raises:
            EndpointNotFound: The endpoint was never created, or was deleted.
            BackendOverloaded: Nothing was started: the queue was full, or no replica was ready.
            DeadlineExceeded: The deadline has passed; `executed` says whether the request may have run.
            ReplicaDied: The replica ended before its answer, and a retry was not safe.
            MethodNotExposed: The backend does not expose the method.
            BackendError: The replica ended the answer early.
            NotConnected: No routing table has arrived, and the controller cannot be reached.
        """
        try:
            if self.version < self.known.version and self.catch_up is not None:
                began = self._loop.time()
                await self.catch_up(request.timeout_s)
                request.timeout_s -= self._loop.time() - began
            policy = self._policy(request)
        except NothingStarted as error:
            if request.retried:
                raise _may_have_run(error) from None
            raise
        backend = self._choose(policy, request.shard_key, request.draw)
        if policy.shadows:
            self._shadows.copy(request, policy)
        self.statistics.routed += 1
        return await self._send(self._pools[backend], request, deadline_covers_body)

    def _policy(self, request: OutgoingRequest) -> TrafficPolicy:
        """Return the policy of the endpoint of *request*, and limit the request to the time of the endpoint.

        Raises:
            DeadlineExceeded: The request has no time left.
        """
        route, policy = self._endpoint(request.endpoint)
        if request.timeout_s <= 0:
            raise self.overdue(request, "unknown" if request.retried else "no")
        if route.timeout_s is not None and route.timeout_s < request.timeout_s:
            request.timeout_s = route.timeout_s
        return policy

    def _endpoint(self, endpoint: str) -> tuple[EndpointRoute, TrafficPolicy]:
        found = self._endpoints.get(endpoint)
        if found is not None:
            return found
        if self.table is None:
            raise NotConnected("no routing table has arrived yet; is the instance running?")
        raise EndpointNotFound(endpoint, tuple(self._endpoints))

    def _choose(self, policy: TrafficPolicy, shard_key: str | None, draw: float) -> str:
        return policy.choose(draw) if shard_key is None else policy.choose_for_key(shard_key)

    async def _send(self, pool: ReplicaPool, request: OutgoingRequest, deadline_covers_body: bool = True) -> Routed:
        """Send *request* until a replica answers, or a retry is not safe."""
        delivery = _Delivery(self, pool, request, self._loop.time() + request.timeout_s)
        again, retried = False, request.retried
        try:
            while True:
                try:
                    stream = await self._open(delivery, request, again=again)
                    frame = await stream.reply
                except Rejected as rejected:
                    self._check_rejection(rejected.rejection, pool, request)
                except Lost as lost:
                    if lost.started != "no":
                        if retried or not self.may_retry(request):
                            raise ReplicaDied(f"the replica died before it answered: {lost.why}", "unknown") from None
                        retried = True
                else:
                    delivery.handed_over = deadline_covers_body and delivery.slot is not None
                    return stream, frame
                again = True
        except Aborted:
            raise BackendError("Aborted", "the replica broke the answer off") from None
        except NothingStarted as error:
            if retried:
                raise _may_have_run(error) from None
            raise
        except DeadlineExceeded as error:
            if retried:  # "no" is true of the second attempt only: the first may have run
                error.executed = "unknown"
            raise
        except asyncio.CancelledError:
            if delivery.stream is not None:
                delivery.stream.cancel()
            raise
        finally:
            if not delivery.handed_over:
                self.deadlines.discard(delivery)

    async def _open(self, delivery: _Delivery, request: OutgoingRequest, *, again: bool) -> CallerStream:
        """Take a slot and send the head. A task sends the body when the replica gives credit."""
        pool = delivery.pool
        slot, connection = await pool.acquire(delivery, again=again)
        try:
            if delivery.expired:
                raise delivery.too_late()
            assert self.table is not None
            head = request.encode(pool.name, self.table.version, delivery.deadline - self._loop.time())
            stream = connection.open(request.kind, head, end=request.body is None)
        except BaseException:
            pool.release(slot, slot.load)
            raise
        delivery.slot, delivery.stream = slot, stream
        stream.on_done = delivery.done
        if request.body is not None:
            stream.start_upload(request.body)
        return stream

    def _check_rejection(self, rejection: Rejection, pool: ReplicaPool, request: OutgoingRequest) -> None:
        """Return if the rejected *request* may be sent again; otherwise raise."""
        self.statistics.rejected += 1
        if rejection.reason == "expired":
            raise self.overdue(request, "no")
        if rejection.reason == "not exposed":
            raise MethodNotExposed(pool.name, rejection.detail)
        if rejection.reason not in ("full", "draining", "foreign"):
            raise BackendError("Rejected", rejection.detail or rejection.reason)

    def may_retry(self, request: OutgoingRequest) -> bool:
        """Return whether the lost *request* may be sent again although it may have run; if so, the budget pays.

        Any thread may call it.
        """
        if not request.idempotent or isinstance(request.body, AsyncIterator) or not self._retries.spend():
            return False
        self.statistics.retried += 1
        return True


def _policy(endpoint: EndpointRoute) -> TrafficPolicy:
    return TrafficPolicy(weights=endpoint.weights, shadows=endpoint.shadows)


def _may_have_run(error: NothingStarted) -> ReplicaDied:
    """Return the error for a request whose second attempt ended with *error*: the first one may have run."""
    return ReplicaDied(f"the replica died before it answered; then: {error}", "unknown")


def _rejection_of(stream: CallerStream | None) -> Rejection | None:
    if stream is None or not stream.reply.done() or stream.reply.cancelled():
        return None
    error = stream.reply.exception()
    return error.rejection if isinstance(error, Rejected) else None
