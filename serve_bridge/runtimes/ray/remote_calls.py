"""Calls of `handle.remote`, which return an ObjectRef. They are made in the process of the caller."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError, RayError, RpcError

from serve_bridge.errors import (
    AuthenticationError,
    BackendOverloaded,
    NotConnected,
    SerializationError,
    ServeBridgeError,
)
from serve_bridge.instance.instance import Instance
from serve_bridge.instance.known_instance import known_instance
from serve_bridge.process.loop_future import run_on
from serve_bridge.process.pickling_errors import PICKLING_ERRORS
from serve_bridge.process.task_set import TaskSet
from serve_bridge.routing.channel import Channel
from serve_bridge.routing.replica_set import Slot
from serve_bridge.routing.threadsafe_replica_sets import Place, ThreadsafeReplicaSets
from serve_bridge.routing_table import BackendRoute
from serve_bridge.runtimes.ray.actors import NAMESPACE, actor_name
from serve_bridge.user_code.unpicklable import unpicklable_arguments
from serve_bridge.wire import calls_made as calls
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.caller_end import CallerConnection
from serve_bridge.wire.dialling import dial
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.heads import CallHead, encode_head
from serve_bridge.wire.keys import CLIENTS

ASK_S: Final = 0.05
"""Seconds between two questions to a replica for the number of its completed calls."""
ASK_TIMEOUT_S: Final = 2.0
"""Upper limit for the answer, in seconds."""
_SIZES: Final = re.compile(r"larger than max \((\d+) vs\. (\d+)\)")

_logger = logging.getLogger("serve_bridge.client")


class RemoteCalls:
    """Makes the `handle.remote` calls of one client in one process. Any thread may use it."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._id = secrets.token_hex(8)
        # Calls wait inside their replica, in order. Their limit is as for requests: the running and the queued ones.
        self._replicas: ThreadsafeReplicaSets[_Actor] = ThreadsafeReplicaSets(
            _Actor, limit=_most_calls, disconnect=_Actor.disconnect
        )
        self._questions = TaskSet(_logger)

    def submit(
        self,
        channel: Channel,
        endpoint: str,
        shard_key: str | None,
        head: CallHead,
        data: Any,
        kwargs: Mapping[str, Any],
    ) -> Any:
        """Choose a backend and a replica and call it; return the ObjectRef.

        Raises:
            EndpointNotFound: There is no such endpoint.
            BackendOverloaded: No replica is ready, or too many calls wait already.
            SerializationError: An argument cannot be pickled, or the arguments are too large for Ray.
        """
        backend, shadows = channel.router.choose(endpoint, shard_key)
        timeout_s = channel.router.within(endpoint, head.timeout_s)
        encoded = encode_head(msgspec.structs.replace(head, submitter=self._id, timeout_s=timeout_s))
        for shadow in shadows:
            with contextlib.suppress(BackendOverloaded):
                self._call(channel, shadow, encoded, data, kwargs)
        return self._call(channel, backend, encoded, data, kwargs)

    def _call(self, channel: Channel, backend: str, head: bytes, data: Any, kwargs: Mapping[str, Any]) -> Any:
        table = channel.router.table
        assert table is not None
        place = Place(self._replicas, backend)
        slot = self._replicas.acquire(table, place)
        if slot is None:  # the last known numbers may be old, so ask the replicas now
            run_on(channel.loop, self._ask_all(backend)).result()
            slot = self._replicas.acquire(table, place)
        if slot is None:
            raise BackendOverloaded(_full(backend, table.backends.get(backend)))
        actor = slot.peer
        try:
            method = actor.method(self._instance.generation)
            try:
                reference = method.remote(head, data, **kwargs)
            except PICKLING_ERRORS as error:
                raise unpicklable_arguments(data, kwargs, error) from error
            except (RpcError, ObjectStoreFullError, OutOfDiskError) as error:
                raise _too_large(error) from error
            place.slot = None  # the call keeps the slot until the replica reports its end
        finally:
            self._replicas.release(place)
        if time.monotonic() - actor.asked > ASK_S:
            actor.asked = time.monotonic()
            channel.loop.call_soon_threadsafe(self._ask_soon, backend, slot)
        return reference

    def close(self) -> None:
        """Close the connections to the replicas. Calls in progress continue."""
        self._replicas.close()

    # The replicas report completed calls. Ray could too, but would rebuild each result a second time for it.

    def _ask_soon(self, backend: str, slot: Slot[_Actor]) -> None:
        self._questions.start(self._ask(backend, slot))

    async def _ask_all(self, backend: str) -> None:
        await asyncio.gather(*(self._ask(backend, slot) for slot in self._replicas.slots(backend)))

    async def _ask(self, backend: str, slot: Slot[_Actor]) -> None:
        """Ask the replica of *slot* how many calls of this process it has done; on the channel's loop."""
        actor = slot.peer
        try:
            connection = await actor.connected(self._instance)
            count, load = await calls.control(connection, "@completed", self._id, timeout_s=ASK_TIMEOUT_S)
        except (Lost, TimeoutError, AuthenticationError, ServeBridgeError) as error:
            _logger.info("replica %s does not report its completed calls: %s", slot.name, error or type(error).__name__)
            return
        if count > actor.done:
            self._replicas.settle(backend, slot, count - actor.done, load)
            actor.done = count


class _Actor:
    """A replica as a Ray actor. The first call looks the actor up.

    Attributes:
        done: Number of its completed calls of this process.
        asked: Time of the last question for this number.
    """

    __slots__ = ("_connection", "_dialling", "_method", "address", "asked", "done")

    def __init__(self, address: SocketAddress) -> None:
        self.address = address
        self.asked = 0.0
        self.done = 0
        self._connection: CallerConnection | None = None
        self._dialling = asyncio.Lock()
        self._method: Any = None

    async def connected(self, instance: Instance) -> CallerConnection:
        """Return a connection, on the running loop.

        Raises:
            Lost, AuthenticationError: No connection can be made.
        """
        async with self._dialling:
            if self._connection is None or not self._connection.usable:
                key = known_instance(instance.generation).key_of(instance)
                self._connection = await dial(self.address, key, instance.generation, key.strongest(*CLIENTS))
            return self._connection

    def disconnect(self) -> None:
        """Close the connection, if there is one. Any thread may call this."""
        if self._connection is not None:
            self._connection.close_threadsafe()

    def method(self, generation: str) -> Any:
        if self._method is None:
            name = actor_name(generation, self.address.name)
            try:
                self._method = ray.get_actor(name, namespace=NAMESPACE).call
            except ValueError:
                raise NotConnected(
                    f"replica {self.address.name} is not an actor of the Ray cluster of this process: it has "
                    "just ended, or its instance runs without Ray or on another cluster; use handle.call()"
                ) from None
        return self._method


def _full(backend: str, route: BackendRoute | None) -> str:
    if route is None or not route.replicas:
        return f"backend {backend!r} has no ready replica; nothing was started, so try again"
    most = len(route.replicas) * _most_calls(route)
    return (
        f"backend {backend!r} is full: this process has {most} calls there, of which "
        f"{route.max_queued_queries} wait (max_queued_queries); nothing was started, so try again"
    )


def _too_large(error: RayError) -> RayError | SerializationError:
    """Return an error for arguments that are too large for Ray; *error* itself if it has another reason."""
    sizes = _SIZES.search(str(error))
    if sizes is not None:
        size, most = (int(each) / (1 << 20) for each in sizes.groups())
        problem = f"the arguments have {size:.0f} MiB, and one message of Ray {most:.0f} MiB at most"
    elif isinstance(error, RpcError):
        return error
    else:
        problem = "Ray's object store has no room for the arguments"
    return SerializationError(
        f"{problem}; use handle.call(), which does not send them through Ray, or pass where the data is, such as a path"
    )


def _most_calls(route: BackendRoute) -> int:
    """Return the limit for the calls of this process to one replica; all replicas share `max_queued_queries`."""
    return route.max_concurrent_queries + -(-route.max_queued_queries // max(1, len(route.replicas)))
