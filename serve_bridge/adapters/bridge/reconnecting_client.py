"""The link of an app to its instance. It connects on first use, and connects again after a restart of the instance.

Rule 1: nothing is read, connected or started before the first use, and again in a forked process.
Rule 2: a restarted instance is found at the address of the old one, without action by the app.
Rule 3: a lookup reads a file; only the first one also asks whether the instance runs. It holds up no event loop and no
    executor of the app. The link finds out whether a controller answers, once for all requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from serve_bridge.adapters.bridge.address import address_text
from serve_bridge.adapters.bridge.forwarded_route import ASYNC_TIMEOUT_S
from serve_bridge.client.call_options import CallOptions
from serve_bridge.client.handle import Handle
from serve_bridge.client.instance_link import InstanceLink
from serve_bridge.client.instance_search import find_instance, link_to
from serve_bridge.config.names import existing_name
from serve_bridge.errors import ConfigError, NotConnected
from serve_bridge.instance.instance import Instance
from serve_bridge.instance.instance_file import ADDRESS_VARIABLE
from serve_bridge.instance.liveness import refuses
from serve_bridge.instance.private_file import UnusableFile
from serve_bridge.instance.remote_address import is_remote
from serve_bridge.printable import shown
from serve_bridge.process.daemon_threads import DaemonThreads
from serve_bridge.routing.channel import Channel

if TYPE_CHECKING:
    from serve_bridge.client.client import Client

LOOK_AGAIN_S: Final = 0.5
"""Seconds between two checks whether the instance still exists. If it does not, the check looks for a new one."""

FAR_LOOK_S: Final = 0.4
"""Upper limit in seconds for the wait of a request for a look over a network: less than the time between two looks."""

_logger = logging.getLogger("serve_bridge.adapters")


class ReconnectingClient:
    """The client of an app, also after a restart of the instance."""

    def __init__(
        self,
        address: str | os.PathLike[str] | None = None,
        *,
        name: str = "default",
        runtime: str | None = None,
        timeout_s: float = ASYNC_TIMEOUT_S,
        declared: Callable[[], Iterable[Any]] = tuple,
    ) -> None:
        """Keep where the instance is, or how to start one. The first request uses it.

        Args:
            address: Address of the instance, as for `serve_bridge.connect`.
            name: Name of the instance among those of this user, if there is no address.
            runtime: None joins a running instance. "local" starts an instance inside this process, for development and
                tests; it ends with the process, or with `close`.
            timeout_s: Time limit in seconds of a request whose route has no `timeout_s`.
            declared: Returns the arguments of `serve_bridge.deploy` for an instance started here.

        Raises:
            ConfigError: *runtime* is neither.
        """
        if runtime not in (None, "local"):
            raise ConfigError(f"runtime must be None, to join a running instance, or 'local', got {shown(runtime)}")
        self.timeout_s = timeout_s
        self._address = address_text("address", address)
        self._name = name
        self._local = runtime == "local"
        self._declared = declared
        self._lock = threading.Lock()
        self._link: InstanceLink | None = None
        self._linked_client: tuple[InstanceLink, Client] | None = None
        self._pid = 0
        self._next_look = 0.0
        self._failure: NotConnected | None = None
        self._looking: Future[InstanceLink] | None = None

    @property
    def is_local(self) -> bool:
        """Whether the instance is inside this process."""
        return self._local

    def link(self) -> InstanceLink:
        """Return the link of the app.

        Raises:
            NotConnected: No instance is running at the address. The next call looks again.
            ConfigError: The address is malformed, or gevent or eventlet has replaced the sockets of this process.
        """
        link = self._link
        if link is not None and not self._is_doubtful(link):
            return link
        return self._find()

    async def alink(self) -> InstanceLink:
        """Return the link of the app, without blocking the running loop; see `link` for the errors."""
        link = self._link
        if link is not None and not self._is_doubtful(link):
            return link
        return await asyncio.wrap_future(_looks.submit(self._find))

    def client(self) -> Client:
        """Return the client with the link of the app; see `link` for the errors."""
        return self._client_with(self.link())

    async def aclient(self) -> Client:
        """Return the client with the link of the app, without blocking the running loop; see `link` for the errors."""
        return self._client_with(await self.alink())

    def _client_with(self, link: InstanceLink) -> Client:
        """Return the client of *link*, the same one for each call: users may compare clients, or use them as keys."""
        linked = self._linked_client
        if linked is None or linked[0] is not link:
            from serve_bridge.client.client import Client  # late: most web workers only forward

            linked = self._linked_client = link, Client(link)
        return linked[1]

    def channel_at(self, loop: asyncio.AbstractEventLoop) -> Channel | None:
        """Return the channel of the running *loop* to the instance; None if it would have to wait for one."""
        link = self._link
        return None if link is None or self._is_doubtful(link) else link.channel_at(loop)

    def get_handle(self, endpoint: str) -> Handle:
        """Return a handle for *endpoint*, whose calls have the timeout of forwarded requests.

        An unknown endpoint is an error of the call, not of this method.
        """
        return Handle(self.link(), existing_name("endpoint", endpoint), CallOptions(timeout_s=self.timeout_s))

    def close(self) -> None:
        """Disconnect from the instance, and shut it down if it was started here. The next use connects again."""
        with self._lock:
            link, self._link, self._linked_client = self._link, None, None
        if link is not None:
            self._drop(link)

    async def aclose(self) -> None:
        """Do the same as `close`, without blocking the running loop."""
        if self._link is not None:
            await asyncio.to_thread(self.close)

    def _is_doubtful(self, link: InstanceLink) -> bool:
        if link.closed:  # by code of the app, through the client
            return True
        if self._local:
            return self._pid != os.getpid()
        now = time.monotonic()
        if now < self._next_look:
            return False
        if link.lost:
            return True
        self._next_look = now + LOOK_AGAIN_S
        return False

    def _find(self) -> InstanceLink:
        """Return the link to the running instance. If it is another instance than before, close the old link."""
        # Concurrent first requests wait for the lock. Old links are closed after the lock is released, so that no
        # request waits for that.
        with contextlib.ExitStack() as afterwards, self._lock:
            old = self._link
            if old is not None and not self._is_doubtful(old):
                return old
            if old is None and self._failure is not None and time.monotonic() < self._next_look:
                raise NotConnected(str(self._failure))  # requests that waited for the lock need not look one by one
            self._next_look = time.monotonic() + LOOK_AGAIN_S
            closed = None
            if old is not None and old.closed:
                old, closed, self._link = None, old, None
            if old is not None and is_remote(old.address):
                return self._look_far(old)
            try:
                # In an empty context, because the instance outlives the request that starts it. Its threads and tasks
                # must not inherit the context variables of the request.
                self._link = contextvars.Context().run(self._start, closed) if self._local else self._look(old)
            except (NotConnected, ConfigError) as error:
                if old is None:
                    self._note_failure(error)
                    raise
                if os.path.exists(old.address):
                    return old  # replicas answer requests while their controller is down
                self._link = None  # a shutdown removes the file, so new requests can fail at once
                afterwards.callback(old.close)
                raise
            found = self._link
            if old is not None and old is not found and not self._local:
                afterwards.callback(old.close)
                _logger.warning("the instance was restarted; connected to %s", found.address)
            return found

    def _note_failure(self, error: Exception) -> None:
        """Note that a look over a network failed: the next looks may take as long."""
        address = self._address or os.environ.get(ADDRESS_VARIABLE, "")
        if is_remote(str(address)) and isinstance(error, NotConnected):
            self._failure, self._next_look = error, time.monotonic() + LOOK_AGAIN_S

    def _look_far(self, old: InstanceLink) -> InstanceLink:
        """Look for the instance over a network on another thread. Wait for a short time only, and return the link."""
        if self._looking is None or self._looking.done():
            self._looking = _far_looks.submit(self._replace, old)
        with contextlib.suppress(TimeoutError):
            return self._looking.result(FAR_LOOK_S)
        return old

    def _replace(self, old: InstanceLink) -> InstanceLink:
        """Return the link to the instance at the address of *old*. If it is another one, close *old*."""
        try:
            found = self._look(old)
        except (NotConnected, ConfigError):
            return old  # replicas answer requests while their controller is down
        if found is not old:
            self._link = found
            _logger.warning("the instance was restarted; connected to %s", found.address)
            old.close()
        return found

    def _look(self, old: InstanceLink | None) -> InstanceLink:
        def may_run(found: Instance) -> bool:
            return is_old(found) or not refuses(found)

        def is_old(found: Instance) -> bool:
            return old is not None and old.instance.generation == found.generation

        try:
            found = find_instance(self._address, self._name, may_run)
        except UnusableFile as error:  # the file is at fault, not the app, and may be replaced
            raise NotConnected(str(error)) from error
        return old if old is not None and is_old(found) else link_to(found, self._address)

    def _start(self, closed: InstanceLink | None) -> InstanceLink:
        """Start an instance. If the one of *closed* still runs in this process, return a new link to it."""
        if closed is not None and self._pid == os.getpid() and os.path.exists(closed.address):
            return InstanceLink(closed.instance)
        # Late: most apps join an instance, and do not deploy to it.
        from serve_bridge.client.client import link_of
        from serve_bridge.client.instance_start import start_local
        from serve_bridge.deployment.deploy import deploy

        link = link_of(start_local(f"local-{os.getpid()}-{secrets.token_hex(4)}"))
        try:
            declared = list(self._declared())
            if declared:
                deploy(*declared, client=link)
        except BaseException:
            link.shutdown()
            raise
        self._pid = os.getpid()
        return link

    def _drop(self, link: InstanceLink) -> None:
        if not self._local:
            link.close()
        elif self._pid == os.getpid():
            link.shutdown()


_looks: DaemonThreads
_far_looks: DaemonThreads


def _start_afresh() -> None:
    """Make the thread for lookups of instances; a forked process needs a new one."""
    global _looks, _far_looks
    # One thread is enough: if several requests need the client, the first one finds it for all of them.
    _looks = DaemonThreads(1, "serve_bridge-look", idle_s=1.0)
    _far_looks = DaemonThreads(1, "serve_bridge-far-look", idle_s=1.0)  # a look over a network may take seconds


_start_afresh()
os.register_at_fork(after_in_child=_start_afresh)
