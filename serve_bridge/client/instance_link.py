"""The link of a process to one instance: what clients, handles and adapters share.

Rule 1: nothing starts before the first use: no thread, no socket. After a fork the child starts afresh.
Rule 2: synchronous callers share one loop thread for each process; asynchronous callers use their own loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Final, cast

from serve_bridge.client import registry
from serve_bridge.client.instance_end import end_instance
from serve_bridge.errors import ControlPlaneLost, InstanceClosed, NotAllowed, NotConnected
from serve_bridge.instance import instance_file as instances
from serve_bridge.instance import membership
from serve_bridge.instance.instance import Instance
from serve_bridge.instance.operations import AnswerLost, Operation
from serve_bridge.management.operator import OPERATION_S
from serve_bridge.process.loop_future import run_on
from serve_bridge.routing.blocking_calls import PendingAnswer
from serve_bridge.routing.channel import Channel
from serve_bridge.routing.outgoing_request import OutgoingRequest
from serve_bridge.routing.process_channels import ProcessChannels
from serve_bridge.routing.process_link import SPARE_S, overdue
from serve_bridge.routing.router import Router
from serve_bridge.routing_table import RoutingTable
from serve_bridge.wire.codecs import PLAIN, Codec
from serve_bridge.wire.heads import CallHead
from serve_bridge.wire.keys import OPERATORS, Role

HELD_S: Final = 1e9
"""Time limit of an operation for the whole life of a process, in seconds: practically none."""


class InstanceLink:
    """The link of this process to one instance; safe to share between threads."""

    def __init__(
        self,
        instance: Instance | str,
        *,
        address: str | None = None,
        on_end: Callable[[], None] | None = None,
        lease: bool = False,
    ) -> None:
        """Link to *instance*, or to the instance at this address. Nothing is read or connected before the first use.

        Args:
            instance: The instance, or its address.
            address: Path of the file in which *instance* was found, if that file is a copy.
            on_end: Called after `shutdown`.
            lease: End the instance when this process ends.
        """
        self._found = instance if isinstance(instance, Instance) else None
        self._address = address or (instance.address if isinstance(instance, Instance) else instance)
        if on_end is not None:
            registry.at_end(self.instance.generation, on_end)
        self._owner = os.getpid() if lease else None
        self._process: ProcessChannels | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._remote_calls: Any = None
        registry.opened(self, self.known_generation)

    @property
    def instance(self) -> Instance:
        """The instance, as its file describes it.

        Raises:
            NotConnected: The file is gone.
        """
        if self._found is None:
            self._found = instances.find(self._address, "")
        return self._found

    @cached_property
    def codec(self) -> Codec:
        """See `ProcessLink.codec`."""
        return self.instance.codec

    def needs_role(self, role: Role, what: str) -> NotAllowed:
        """See `ProcessLink.needs_role`."""
        name = role.name.lower()
        own = self.instance.key.strongest(*OPERATORS).name.lower()
        return NotAllowed(
            f"{what} needs the role {name}, and this process has the role {own}: set SERVE_BRIDGE_KEY_FILE to "
            f"{self.name}.{name}.key from the host on which the instance was started"
        )

    @cached_property
    def may_manage(self) -> bool:
        """Whether this process may use the operations of the controller."""
        return self.instance.key.strongest(*OPERATORS) in (Role.PYTHON, Role.MANAGE)

    def endpoints(self) -> Collection[str]:
        """Return the names of all endpoints: those that the controller has, or without that role the routing table."""
        if self.may_manage:
            listed: dict[str, Any] = self.operate(Operation.LIST_ENDPOINTS)
            return listed
        table = self.routing_table()
        return () if table is None else table.endpoints

    @property
    def known_generation(self) -> str | None:
        """The generation of the instance; None if its file has not been read yet."""
        return None if self._found is None else self._found.generation

    @property
    def name(self) -> str:
        """The instance's name."""
        return self.instance.name

    @property
    def address(self) -> str:
        """The address for `connect` and SERVE_BRIDGE_ADDRESS."""
        return self._address

    @property
    def lost(self) -> bool:
        """Whether this process has lost the controller, for a moment or for good. Calls may still work without it."""
        process = self._process
        return self._closed or (process is not None and process.lost)

    @property
    def closed(self) -> bool:
        """Whether the link was closed, by itself or with the shutdown of its instance. It cannot be used again."""
        return self._closed

    @property
    def is_owner(self) -> bool:
        """Whether the instance ends with this process."""
        return not self._closed and self._owner == os.getpid()

    # operations of the controller

    def operate(self, operation: Operation, *args: Any, timeout_s: float = OPERATION_S) -> Any:
        """See `Operator.operate`."""
        self.check_open()
        if not self.may_manage:
            raise self.needs_role(Role.MANAGE, f"the operation {operation}")
        return self._run(operation, *args, timeout_s=timeout_s)

    @contextmanager
    def holding(self, operation: Operation, *args: Any) -> Iterator[None]:
        """See `Operator.holding`."""
        self.check_open()
        if not self.may_manage:
            raise self.needs_role(Role.MANAGE, f"the operation {operation}")
        channel = self._here().channel()
        work = channel.controller.call(operation, *args, timeout_s=HELD_S)
        held = run_on(channel.loop, work)
        try:
            yield
        finally:
            held.cancel()

    def hold(self) -> None:
        """Take the lease on the instance now instead of on first use. The instance ends if no process holds a lease."""
        self._here().channel()

    def shutdown(self, *, forget: bool = True) -> None:
        """Drain and stop the instance, and remove every key and file that it made. A second call does nothing.

        With *forget* the kept state and the kept keys are removed too.

        Raises:
            NotAllowed: This process may not manage the instance.
            ControlPlaneLost: Ray's control plane does not answer. Nothing has changed.
            AnswerLost: The controllers of the instance end before they answer. Try again.
            OSError: The instance has ended, but not all of its state and keys could be removed.
        """
        if not self._closed and not self.may_manage:
            raise self.needs_role(Role.MANAGE, "shutdown")
        with self._lock:
            if self._closed:
                return
            self._closed = True
        try:
            end_instance(self._run, forget)
        except (ControlPlaneLost, AnswerLost):
            self._closed = False  # the instance may run on, so the caller may try again
            raise
        except NotConnected:  # it has ended already, perhaps without having removed its files
            if self._owner == os.getpid():
                instances.remove(self.instance)
        except BaseException:
            self._forget()
            raise
        self._forget()

    def _forget(self) -> None:
        self.close()
        if self._found is not None:
            registry.forget(self._found.generation)

    def close(self) -> None:
        """Disconnect from the instance, which keeps running if it outlives its starter. A second call does nothing."""
        self._closed = True
        remote_calls, self._remote_calls = self._remote_calls, None
        if remote_calls is not None:
            remote_calls.close()
        process, self._process = self._process, None
        registry.closed(self)
        if process is not None:
            process.close()

    # for handles and forwarded requests (`routing.process_link.ProcessLink`)

    def send(self, request: OutgoingRequest) -> PendingAnswer | None:
        """See `ProcessLink.send`."""
        self.check_open()
        process = self._here()
        router = process.channel().router
        return None if router.behind else process.blocking_calls.send(router, request)

    def needs_whole_body(self, request: OutgoingRequest, method: str) -> bool:
        """See `ProcessLink.needs_whole_body`."""
        # Without the newest table, the first request of a process could be taken for one whose backend streams.
        return self._current_router(request.timeout_s).needs_whole_body(request, method)

    def begin(self, work: Callable[[Channel], Any]) -> concurrent.futures.Future[Any]:
        """See `ProcessLink.begin`."""
        self.check_open()
        channel = self._here().channel()

        async def begun() -> Any:
            return await work(channel)

        return run_on(channel.loop, begun())

    def run(self, work: Callable[[Channel], Any], timeout_s: float) -> Any:
        """See `ProcessLink.run`."""
        future = self.begin(work)
        try:
            return future.result(timeout_s + SPARE_S)
        except concurrent.futures.TimeoutError:
            if future.done():
                raise
            raise overdue(timeout_s) from None
        finally:
            future.cancel()

    def discard(self, items: AsyncGenerator[Any, None]) -> None:
        """See `ProcessLink.discard`. A garbage collector may call it on any thread."""
        process = self._process
        if process is not None:
            process.discard(items)

    async def channel(self, timeout_s: float = OPERATION_S) -> Channel:
        """See `ProcessLink.channel`, and `ControllerLink.ready` for the wait."""
        self.check_open()
        channel = self._here().channel_here()
        if channel.router.behind:
            await channel.controller.ready(timeout_s)
        return channel

    def channel_at(self, loop: asyncio.AbstractEventLoop) -> Channel | None:
        """Return what `channel` returns on *loop*, which runs; None if that needs a wait."""
        channel = self._process.channel_at(loop) if self._process is not None else None
        return None if channel is None or channel.router.behind else channel

    def submit(self, endpoint: str, shard_key: str | None, head: CallHead, data: Any, kwargs: Mapping[str, Any]) -> Any:
        """See `ProcessLink.submit`."""
        self.check_open()
        if self.codec is PLAIN:
            raise self.needs_role(Role.CALL, "handle.remote()")
        if self._remote_calls is None:
            from serve_bridge.runtimes import remote_calls  # late: only callers of `remote` need Ray

            self._remote_calls = remote_calls(self.instance)
        self._current_router(head.timeout_s)
        channel = self._here().channel()
        return self._remote_calls.submit(channel, endpoint, shard_key, head, data, kwargs)

    def reference(self) -> Any:
        """See `ProcessLink.reference`. No socket, thread or key is pickled."""
        return _Reference(self.instance.generation, self._address)

    # the routing table

    def routing_table(self) -> RoutingTable | None:
        """Return the newest routing table of the process's own channel. The first call waits for it."""
        return self._current_router(OPERATION_S).table

    def routes_now(self, endpoint: str) -> bool:
        """Return whether the present table has *endpoint*, without a wait for a newer one."""
        router = self._here().channel().router
        table = None if router.behind else router.table
        return table is not None and endpoint in table.endpoints

    # the life of the link

    def check_open(self) -> None:
        """Raise InstanceClosed if the link was closed."""
        if self._closed:
            raise InstanceClosed(
                f"instance {self.name!r} was shut down; serve_bridge.start() or connect() makes a new client"
            )

    def start_afresh(self) -> None:
        """Give up the threads and sockets of the parent process, in a forked child."""
        registry.inherit((self._process, self._lock))
        self._process, self._lock = None, threading.Lock()
        self._remote_calls = None

    def _current_router(self, timeout_s: float) -> Router:
        """Return the router of the process's own channel once it has the newest table; waits at most *timeout_s*."""
        self.check_open()
        router = self._here().channel().router
        if router.behind:
            self.run(lambda channel: channel.controller.ready(timeout_s), timeout_s)
        return router

    def _here(self) -> ProcessChannels:
        if self._process is None:
            with self._lock:
                if self._process is None:
                    registry.running(self)
                    self._process = ProcessChannels(
                        self.instance, lease=self._owner == os.getpid(), address=self._address
                    )
        return self._process

    def _run(self, operation: Operation, *args: Any, timeout_s: float = OPERATION_S) -> Any:
        channel = self._here().channel()
        work = channel.controller.call(operation, *args, timeout_s=timeout_s)
        return run_on(channel.loop, work).result()


class _Reference:
    """Unpickles, in any process, as its link to the same instance."""

    def __init__(self, generation: str, address: str) -> None:
        self._where = generation, address

    def __reduce__(self) -> Any:
        return (link_at, self._where)


def link_at(generation: str, address: str) -> InstanceLink:
    """Return this process's link to an instance, without I/O: a handle may arrive where nothing answers.

    A replica of the same instance ignores *address*, which may be the path of a file on another machine.
    """
    known = registry.known(generation)
    if known is None:
        known = registry.keep_arrived(generation, InstanceLink(membership.joined(generation) or address))
    return cast(InstanceLink, known)
