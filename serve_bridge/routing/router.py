"""The router of one event loop: picks the backend, then the replica, and sees the request through.

Rule 1: touched from its own loop only; nothing here waits for Ray, the controller or a lock.
Rule 2: a request is sent again only where that is safe: it provably did not start, or it is idempotent,
    whole in hand, and the retry budget allows it.
Rule 3: O(1) work a request; what a table decides is computed when the table arrives.
"""

from __future__ import annotations

import asyncio
import logging
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

_logger = logging.getLogger("serve_bridge.router")


class _Delivery(WaitingRequest[ReplicaPeer]):
    """One request's way through a pool: its deadline, and the slot and stream it holds at the moment."""

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
        """Time is up: stop whatever stage the request is in."""
        self.expired = True
        if self.stream is not None:
            self.stream.cancel(self.router.overdue(self.request, "unknown"))
        else:
            super().expire()

    def too_late(self) -> DeadlineExceeded:
        """Return the error for a request that has not been sent."""
        return self.router.overdue(self.request, "no")

    def done(self, load: int) -> None:
        """The replica has spoken its last on this stream: its slot is free."""
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
    """Sends requests to replicas, by the newest routing table it was given.

    Attributes:
        table: That table, or None before the first.
        version: The version of that table; -1 before the first.
        known: What this process knows of the instance. A request waits for the table version that it names.
        catch_up: Waits for that table, for so many seconds at most; None: nothing here waits.
        deadlines: When the requests on their way run out of time.
        statistics: Counters since it was made.
    """

    def __init__(self, key: Key, role: Role, known: KnownInstance | None = None) -> None:
        self.known = KnownInstance() if known is None else known
        self.version = -1
        self.catch_up: Callable[[float], Awaitable[None]] | None = None
        self._key = key
        self._role = role
        self._loop = asyncio.get_running_loop()
        self.deadlines = Deadlines(self._loop)
        self._pools: dict[str, ReplicaPool] = {}
        self._closing: list[ReplicaPool] = []
        self._endpoints: dict[str, tuple[EndpointRoute, TrafficPolicy]] = {}
        self._looking = self._loop.call_later(LOOK_EVERY_S, self._look)
        self.table: RoutingTable | None = None
        self.statistics = RouterStatistics()
        self._retries = RetryBudget(self.statistics)
        self._shadows = Shadows(self._pools, self._send, self.statistics)

    def apply(self, table: RoutingTable) -> None:
        """Route by *table* from now on; what is in flight goes on."""
        self.table, self.version = table, table.version
        for name, backend in table.backends.items():
            if name in self._pools:
                self._pools[name].apply(backend)
            else:
                self._pools[name] = ReplicaPool(
                    name, backend, key=self._key, generation=table.generation, role=self._role
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
        """Drop every connection; what is in flight fails."""
        self._looking.cancel()
        self.deadlines.close()
        self._shadows.close()
        for pool in [*self._pools.values(), *self._closing]:
            pool.abandon()

    @property
    def behind(self) -> bool:
        """Whether this process has been told of a newer table than this one; from any thread."""
        return self.version < self.known.version

    def choose(self, endpoint: str, shard_key: str | None) -> tuple[str, tuple[str, ...]]:
        """Return the backend that gets a request to *endpoint*, and the shadows; from any thread.

        Raises:
            EndpointNotFound: Nobody created the endpoint, or it was deleted.
        """
        policy = self._endpoint(endpoint)[1]
        return self._choose(policy, shard_key, random.random()), policy.shadows_for(random.random)

    def within(self, endpoint: str, timeout_s: float) -> float:
        """Return *timeout_s*, or what a request to *endpoint* may take, if that is less; from any thread.

        Raises:
            EndpointNotFound: Nobody created the endpoint, or it was deleted.
        """
        most = self._endpoint(endpoint)[0].timeout_s
        return timeout_s if most is None else min(timeout_s, most)

    def overdue(self, request: OutgoingRequest, executed: Executed) -> DeadlineExceeded:
        """Return the error for *request*, whose time is up; from any thread."""
        found = self._endpoints.get(request.endpoint)
        own_s = found[0].timeout_s if found is not None else None
        if own_s is not None and own_s <= request.limit_s:
            return no_answer(request.endpoint, own_s, executed, "the endpoint's own timeout_s is the limit")
        return no_answer(request.endpoint, request.limit_s, executed, CALL_HINT if request.kind == Kind.CALL else "")

    def backend_for_blocking_call(self, request: OutgoingRequest) -> str | None:
        """Return the backend for *request* that its caller's own thread sends; None if it has to come through here.

        It has to if shadows get copies, or if others wait for that backend already. From any thread.

        Raises:
            EndpointNotFound: Nobody created the endpoint, or it was deleted.
            DeadlineExceeded: Its time is up.
        """
        policy = self._policy(request)
        if policy.shadows:
            return None
        backend = self._choose(policy, request.shard_key, request.draw)
        pool = self._pools.get(backend)
        return None if pool is None or pool.waiting or not pool.all_usable else backend

    def needs_whole_body(self, request: OutgoingRequest, method: str) -> bool:
        """Return whether *method* of the backend that *request* goes to needs all of its body; from any thread.

        An endpoint that does not exist needs nothing: `route` says so.
        """
        found = self._endpoints.get(request.endpoint)
        if found is None:
            return False
        pool = self._pools.get(self._choose(found[1], request.shard_key, request.draw))
        return pool is not None and method not in pool.streaming

    def suspect(self, backend: str, replica: str) -> None:
        """Somebody waits for *replica* outside of this router, and hears nothing: find out. From any thread."""
        pool = self._pools.get(backend)
        if pool is not None:
            self._loop.call_soon_threadsafe(pool.suspect, replica)

    def slot_released(self, backend: str) -> None:
        """Somebody else's request to *backend* is done: who waits here because it was full may try. From any thread."""
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

        Without *whole* its time bounds the head of the answer only, and what follows may take as long as it will.

        Raises:
            EndpointNotFound: Nobody created the endpoint, or it was deleted.
            BackendOverloaded: Nothing was started: the line was full or no replica ready.
            DeadlineExceeded: Time is up; `executed` says whether it may have run.
            ReplicaDied: The replica stopped before answering, and sending again was not safe.
            MethodNotExposed: The backend has no such method.
            BackendError: The replica broke the answer off.
            NotConnected: No table has come, and the controller cannot be reached.
        """
        if self.version < self.known.version and self.catch_up is not None:
            began = self._loop.time()
            await self.catch_up(request.timeout_s)
            request.timeout_s -= self._loop.time() - began
        policy = self._policy(request)
        backend = self._choose(policy, request.shard_key, request.draw)
        if policy.shadows:
            self._shadows.copy(request, policy)
        self.statistics.routed += 1
        return await self._send(self._pools[backend], request, deadline_covers_body)

    def _policy(self, request: OutgoingRequest) -> TrafficPolicy:
        """Return the policy of the endpoint of *request*, which has no more time than that gives from now on.

        Raises:
            DeadlineExceeded: It has none.
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
            raise NotConnected("no routing table has come yet; is the instance running?")
        raise EndpointNotFound(endpoint, tuple(self._endpoints))

    def _choose(self, policy: TrafficPolicy, shard_key: str | None, draw: float) -> str:
        return policy.choose(draw) if shard_key is None else policy.choose_for_key(shard_key)

    async def _send(self, pool: ReplicaPool, request: OutgoingRequest, deadline_covers_body: bool = True) -> Routed:
        """Attempt *request* until it is answered or may not be sent again."""
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
        except BackendOverloaded:
            if retried:  # its proof is of the second attempt, and the first may have run
                raise ReplicaDied("the replica died before it answered; no other was free", "unknown") from None
            raise
        except DeadlineExceeded as error:
            if retried:  # that the second attempt did not start says nothing of the first
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
        """Take a slot and send the head; a body follows by itself, on the replica's credit."""
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
        """Return if the request, which was not started, may be sent again; else raise."""
        self.statistics.rejected += 1
        if rejection.reason == "expired":
            raise self.overdue(request, "no")
        if rejection.reason == "not exposed":
            raise MethodNotExposed(pool.name, rejection.detail)
        if rejection.reason not in ("full", "draining", "foreign"):
            raise BackendError("Rejected", rejection.detail or rejection.reason)

    def may_retry(self, request: OutgoingRequest) -> bool:
        """Return whether a lost *request* may be sent once more although it may have run; if so, the budget pays.

        It may be called from any thread.
        """
        if not request.idempotent or isinstance(request.body, AsyncIterator) or not self._retries.spend():
            return False
        self.statistics.retried += 1
        return True


def _policy(endpoint: EndpointRoute) -> TrafficPolicy:
    return TrafficPolicy(weights=endpoint.weights, shadows=endpoint.shadows)


def _rejection_of(stream: CallerStream | None) -> Rejection | None:
    if stream is None or not stream.reply.done() or stream.reply.cancelled():
        return None
    error = stream.reply.exception()
    return error.rejection if isinstance(error, Rejected) else None
