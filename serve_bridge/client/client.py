"""A client: a process's link to one instance.

Rule 1: nothing starts before the first use: no thread, no socket. After a fork the child starts afresh.
Rule 2: synchronous callers share one loop thread a process; asynchronous ones use their own loop.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import logging
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from serve_bridge.client.call_options import CallOptions
from serve_bridge.client.handle import AsyncHandle, Handle
from serve_bridge.errors import EndpointNotFound, InstanceClosed, NotConnected
from serve_bridge.instance import instance_file as instances
from serve_bridge.instance import membership
from serve_bridge.instance.instance import Instance
from serve_bridge.management.arguments import existing_name
from serve_bridge.management.management import OPERATION_S, Management
from serve_bridge.routing.blocking_calls import DirectAnswer
from serve_bridge.routing.channel import Lane
from serve_bridge.routing.outgoing_request import OutgoingRequest
from serve_bridge.routing.process_channels import Lanes
from serve_bridge.routing.process_link import SPARE_S, overdue
from serve_bridge.routing.router import Router
from serve_bridge.routing_table import RoutingTable
from serve_bridge.wire.heads import CallHead

if TYPE_CHECKING:
    from serve_bridge.deployment.deploy import Deployment

HELD_S: Final = 1e9
"""Upper limit for what a process holds, in seconds: none."""
_logger = logging.getLogger("serve_bridge.client")


class Client(Management):
    """A process's link to one instance. Made by `start` and `connect`; safe to share between threads."""

    def __init__(
        self,
        instance: Instance | str,
        *,
        address: str | None = None,
        on_end: Callable[[], None] | None = None,
        lease: bool = False,
    ) -> None:
        """Link to *instance*, or to the one whose address it is; nothing is read or connected before first use.

        *address* is where its file was found, if that is a copy of the instance's own.
        *on_end* is called after `shutdown`; with *lease* the instance ends when this process does.
        """
        self._found = instance if isinstance(instance, Instance) else None
        self._address = address or (instance.address if isinstance(instance, Instance) else instance)
        if on_end is not None:
            _on_end[self._instance.generation] = on_end
        self._owner = os.getpid() if lease else None
        self._process: Lanes | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._submitter: Any = None
        _open.add(self)
        if self._found is not None:
            _clients[self._found.generation] = self

    # the instance

    @property
    def _instance(self) -> Instance:
        if self._found is None:
            self._found = instances.find(self._address, "")
        return self._found

    @property
    def name(self) -> str:
        """The instance's name."""
        return self._instance.name

    @property
    def address(self) -> str:
        """What `connect` and SERVE_BRIDGE_ADDRESS take."""
        return self._address

    @property
    def generation(self) -> str:
        """Which start of the instance's name this is a client of."""
        return self._instance.generation

    @property
    def lost(self) -> bool:
        """Whether this process has lost the controller, for a moment or for good; calls may go on without it."""
        process = self._process
        return self._closed or (process is not None and process.lost)

    def operate(self, operation: str, *args: Any, timeout_s: float = OPERATION_S) -> Any:
        """See `Management.operate`."""
        self._check_open()
        return self._run(operation, *args, timeout_s=timeout_s)

    @contextmanager
    def holding(self, operation: str, *args: Any) -> Iterator[None]:
        """See `Management.holding`."""
        self._check_open()
        lane = self._here().lane()
        work = lane.control.call(operation, *args, timeout_s=HELD_S)
        held = asyncio.run_coroutine_threadsafe(work, lane.loop)
        try:
            yield
        finally:
            held.cancel()

    def hold(self) -> None:
        """Take the lease on the instance now, not on first use: it ends while nobody holds one."""
        self._here().lane()

    def is_owner(self) -> bool:
        """Whether the instance ends with this process."""
        return not self._closed and self._owner == os.getpid()

    def shutdown(self) -> None:
        """Drain and stop the whole instance, and remove every key and file it made; twice is a no-op."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        try:
            grace_s = max((c.graceful_shutdown_timeout_s for c in self._run("list_backends").values()), default=0.0)
            self._run("shutdown", timeout_s=grace_s * 2 + OPERATION_S)
        except NotConnected:  # it has ended already, perhaps without having cleaned up
            if self._owner == os.getpid():
                instances.remove(self._instance)
        finally:
            self.close()
            if self._found is not None:
                _forget(self._found.generation)

    def close(self) -> None:
        """Let go of the instance, which goes on running if it outlives its starter; twice is a no-op."""
        self._closed = True
        submitter, self._submitter = self._submitter, None
        if submitter is not None:
            submitter.close()
        for generation in [generation for generation, client in list(_arrived.items()) if client is self]:
            _arrived.pop(generation, None)
        process, self._process = self._process, None
        _running.discard(self)
        if process is not None:
            process.close()

    # declarations

    def deploy(
        self,
        *what: object,
        project: str | None = None,
        traffic: bool = False,
        prune: bool = False,
        force: bool = False,
        dry_run: bool = False,
        take_over: bool = False,
    ) -> Deployment:
        """Bring the instance to what is declared, by rolling updates; a second deployment changes nothing.

        Backends get their code and declared options, endpoints their route, methods and time. An option that is not
        declared stays as the operator set it; an option that is no longer declared goes back to its default.

        Args:
            what: Modules, or their import paths "package.module"; or declared functions, classes and endpoints.
            project: The owner of the deployment. Names that another project deployed, or that were made by hand, are an
                error. None: the top package of the first declaration.
            traffic: Let declared traffic and shadows replace those of endpoints that exist. Otherwise the declared ones
                apply only to new endpoints; the result has a note where they differ.
            prune: Also delete the backends and endpoints that this project deployed before and that *what* does not
                declare. The log of `serve_bridge.deployment` has them first. What was made by hand is never deleted.
            force: Replace the replicas of every declared backend, changed or not.
            dry_run: Change nothing; the result says what would change.
            take_over: Take over what another project, or a person, has made under the declared names.

        Returns:
            What has changed.

        Raises:
            TypeError: Something in *what* is not declared.
            ConfigError: Nothing is named, or a module declares nothing; declarations contradict each other; a name has
                another owner; or a new endpoint has several backends and no declared traffic. Nothing has changed.
            SerializationError: Something declared cannot be pickled; nothing has changed.
            NotConnected: The instance does not answer.
            DeploymentError: A change failed; it says how far the deployment has come.
        """
        from serve_bridge.deployment.deploy import deploy  # late: few processes deploy

        return deploy(
            *what,
            client=self,
            project=project,
            traffic=traffic,
            prune=prune,
            force=force,
            dry_run=dry_run,
            take_over=take_over,
        )

    # handles

    def get_handle(self, endpoint: str, missing_ok: bool = False, sync: bool = True) -> Handle:
        """Return a handle for *endpoint*; with `sync=False` one whose `remote` is awaited.

        Raises:
            EndpointNotFound: There is none, and *missing_ok* is not set. It is a KeyError.
            NotConnected: The instance does not answer.
        """
        self._check_open()
        existing_name("endpoint", endpoint)
        if not missing_ok and not self._knows(endpoint):
            raise EndpointNotFound(endpoint, tuple(self.list_endpoints()))
        return (Handle if sync else AsyncHandle)(self, endpoint, CallOptions())

    def _knows(self, endpoint: str) -> bool:
        router = self._here().lane().router
        table = None if router.behind else router.table
        # A table that has not come yet, or lags behind another process's change, is no proof.
        return (table is not None and endpoint in table.endpoints) or endpoint in self.list_endpoints()

    # for handles (handle.Link)

    def send(self, request: OutgoingRequest) -> DirectAnswer | None:
        """Send *request* from this thread and wait for its answer; None if `run` has to."""
        self._check_open()
        process = self._here()
        router = process.lane().router
        return None if router.behind else process.direct.send(router, request)

    def needs_whole_body(self, request: OutgoingRequest, method: str) -> bool:
        """Return whether *method* of the backend that *request* goes to needs all of its body."""
        # A process's first request must not be taken for one whose backend streams.
        return self._current_router(request.timeout_s).needs_whole_body(request, method)

    def begin(self, work: Callable[[Lane], Any]) -> concurrent.futures.Future[Any]:
        """Start *work* on the process's own loop thread."""
        self._check_open()
        lane = self._here().lane()

        async def begun() -> Any:
            return await work(lane)

        return asyncio.run_coroutine_threadsafe(begun(), lane.loop)

    def run(self, work: Callable[[Lane], Any], timeout_s: float) -> Any:
        """Run *work* on the process's own loop thread and wait for its result."""
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
        """Close *items*, which `run` has opened, without waiting: a garbage collector may ask for it on any thread."""
        process = self._process
        if process is not None:
            process.discard(items)

    def routing_table(self) -> RoutingTable | None:
        """Return the newest routing table of the process's own lane; the first call waits for it."""
        return self._current_router(OPERATION_S).table

    async def lane(self, timeout_s: float = OPERATION_S) -> Lane:
        """Return the running loop's way into the instance, once it has the newest table; see `ControlLink.ready`."""
        self._check_open()
        lane = self._here().lane_here()
        if lane.router.behind:
            await lane.control.ready(timeout_s)
        return lane

    def lane_at(self, loop: asyncio.AbstractEventLoop) -> Lane | None:
        """Same as `lane`, for *loop*, which runs; None if that takes waiting."""
        lane = self._process.lane_at(loop) if self._process is not None else None
        return None if lane is None or lane.router.behind else lane

    def submit(self, endpoint: str, shard_key: str | None, head: CallHead, data: Any, kwargs: Mapping[str, Any]) -> Any:
        """Make a call as a Ray actor call; return its ObjectRef."""
        self._check_open()
        if self._submitter is None:
            from serve_bridge.runtimes import submitter  # late: only who uses Ray needs it

            self._submitter = submitter(self._instance)
        self._current_router(head.timeout_s)
        lane = self._here().lane()
        return self._submitter.submit(lane, endpoint, shard_key, head, data, kwargs)

    # inside

    def _current_router(self, timeout_s: float) -> Router:
        """Return the router of the process's own lane, once it has the newest table; waits *timeout_s* at most."""
        self._check_open()
        router = self._here().lane().router
        if router.behind:
            self.run(lambda lane: lane.control.ready(timeout_s), timeout_s)
        return router

    def _here(self) -> Lanes:
        if self._process is None:
            with self._lock:
                if self._process is None:
                    _running.add(self)
                    self._process = Lanes(self._instance, lease=self._owner == os.getpid(), address=self._address)
        return self._process

    def _start_afresh(self) -> None:
        # Kept, not dropped: to finalise a loop that another thread runs, in another process, would end badly.
        _inherited.append((self._process, self._lock))
        self._process, self._lock = None, threading.Lock()
        self._submitter = None

    def _run(self, operation: str, *args: Any, timeout_s: float = OPERATION_S) -> Any:
        lane = self._here().lane()
        work = lane.control.call(operation, *args, timeout_s=timeout_s)
        return asyncio.run_coroutine_threadsafe(work, lane.loop).result()

    def _check_open(self) -> None:
        if self._closed:
            raise InstanceClosed(
                f"instance {self.name!r} was shut down; serve_bridge.start() or connect() makes a new client"
            )

    def reference(self) -> Any:
        """Return what unpickles, anywhere, as a client of the same instance; no socket, thread or key travels."""
        return _Reference(self._instance.generation, self._address)

    def __reduce__(self) -> Any:
        raise TypeError("a client cannot be pickled; pass a handle, or client.address to serve_bridge.connect()")

    def __repr__(self) -> str:
        return f"Client(address={self._address!r})"


class _Reference:
    def __init__(self, generation: str, address: str) -> None:
        self._where = generation, address

    def __reduce__(self) -> Any:
        return (client_at, self._where)


_clients: weakref.WeakValueDictionary[str, Client] = weakref.WeakValueDictionary()
_open: weakref.WeakSet[Client] = weakref.WeakSet()
_running: set[Client] = set()
"""Those with a thread: held until `close`, or at exit their loops would be torn down under their tasks."""
_arrived: dict[str, Client] = {}
_on_end: dict[str, Callable[[], None]] = {}
"""What is to be done in the process that started an instance, by generation, once it was shut down."""


_inherited: list[Any] = []


def _start_afresh() -> None:
    """After a fork: the child has none of the parent's threads, and its sockets are not the child's."""
    for client in list(_open):
        client._start_afresh()


os.register_at_fork(after_in_child=_start_afresh)


def end_each(ends: Iterable[Callable[[], object]]) -> None:
    """Call each of *ends*; one that fails does not keep the others from their turn, and is logged last."""
    errors: list[Exception] = []
    for end in ends:
        try:
            end()
        except Exception as error:
            errors.append(error)
    for failure in errors:
        _logger.warning("an instance or a client could not be ended", exc_info=failure)


def _close_all() -> None:
    """Let the loop threads end before the interpreter takes their modules away."""
    end_each([client.close for client in list(_open)])


atexit.register(_close_all)


def _forget(generation: str) -> None:
    """An instance was shut down: close all its clients here; if this process started it, end what was begun then."""
    ending = [c for c in list(_open) if c._found is not None and c._found.generation == generation]
    arrived = _arrived.pop(generation, None)
    if arrived is not None:
        ending.append(arrived)
    on_end = _on_end.pop(generation, None)
    end_each([*(client.close for client in ending), *([on_end] if on_end is not None else [])])


def client_at(generation: str, address: str) -> Client:
    """Return this process's client of an instance; no I/O (a handle may arrive where nothing answers).

    One is kept for all handles that arrive: each has a thread and sockets, and a handle may live for a single call. In
    a replica of that instance *address* does not count: it may be the path of a file on another machine.
    """
    known = _clients.get(generation) or _arrived.get(generation)
    return known or _arrived.setdefault(generation, Client(membership.joined(generation) or address))
