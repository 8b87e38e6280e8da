"""The client of an app. It connects on first use, and connects again after its instance was restarted.

Rule 1: nothing is read, connected or started before the first use, and again in a forked process.
Rule 2: a restarted instance is found at the address of the old one, without action by the app.
Rule 3: a lookup reads a file; only the first one also asks whether the instance runs. It holds up no event loop and no
    executor of the app. The link of the client finds out whether a controller answers, once for all requests.
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
from typing import Any, Final

from serve_bridge.adapters.bridge.address import address_text
from serve_bridge.adapters.bridge.forwarded_route import ASYNC_TIMEOUT_S
from serve_bridge.client.client import Client, link_of
from serve_bridge.client.handle import Handle
from serve_bridge.client.instance_link import InstanceLink
from serve_bridge.client.instance_search import client_of, find_instance
from serve_bridge.errors import ConfigError, NotConnected
from serve_bridge.instance.instance import Instance
from serve_bridge.instance.instance_file import ADDRESS_VARIABLE
from serve_bridge.instance.liveness import refuses
from serve_bridge.instance.private_file import UnusableFile
from serve_bridge.instance.remote_address import is_remote
from serve_bridge.printable import shown
from serve_bridge.process.daemon_threads import DaemonThreads
from serve_bridge.routing.channel import Channel

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
        self._client: Client | None = None
        self._pid = 0
        self._next_look = 0.0
        self._failure: NotConnected | None = None
        self._looking: Future[Client] | None = None

    @property
    def is_local(self) -> bool:
        """Whether the instance is inside this process."""
        return self._local

    def client(self) -> Client:
        """Return the client of the app.

        Raises:
            NotConnected: No instance is running at the address. The next call looks again.
            ConfigError: The address is malformed, or gevent or eventlet has replaced the sockets of this process.
        """
        client = self._client
        if client is not None and not self._is_doubtful(client):
            return client
        return self._find()

    def link(self) -> InstanceLink:
        """Return the link of `client`."""
        return link_of(self.client())

    async def alink(self) -> InstanceLink:
        """Return the link of `client`, without blocking the running loop."""
        return link_of(await self.aclient())

    async def aclient(self) -> Client:
        """Return the client of the app, without blocking the running loop; see `client` for the errors."""
        client = self._client
        if client is not None and not self._is_doubtful(client):
            return client
        return await asyncio.wrap_future(_looks.submit(self._find))

    def channel_at(self, loop: asyncio.AbstractEventLoop) -> Channel | None:
        """Return the channel of the running *loop* to the instance; None if it would have to wait for one."""
        client = self._client
        return None if client is None or self._is_doubtful(client) else link_of(client).channel_at(loop)

    def get_handle(self, endpoint: str) -> Handle:
        """Return a handle for *endpoint*, whose calls have the timeout of forwarded requests.

        An unknown endpoint is an error of the call, not of this method.
        """
        return self.client().get_handle(endpoint, missing_ok=True).options(timeout_s=self.timeout_s)

    def close(self) -> None:
        """Disconnect from the instance, and shut it down if it was started here. The next use connects again."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            self._drop(client)

    async def aclose(self) -> None:
        """Do the same as `close`, without blocking the running loop."""
        if self._client is not None:
            await asyncio.to_thread(self.close)

    def _is_doubtful(self, client: Client) -> bool:
        if self._local:
            return self._pid != os.getpid()
        now = time.monotonic()
        if now < self._next_look:
            return False
        if client.lost:
            return True
        self._next_look = now + LOOK_AGAIN_S
        return False

    def _find(self) -> Client:
        """Return the client of the running instance. If it is another instance than before, close the old client."""
        # Concurrent first requests wait for the lock. Old clients are closed after the lock is released, so that no
        # request waits for that.
        with contextlib.ExitStack() as afterwards, self._lock:
            old = self._client
            if old is not None and not self._is_doubtful(old):
                return old
            if old is None and self._failure is not None and time.monotonic() < self._next_look:
                raise NotConnected(str(self._failure))  # requests that waited for the lock need not look one by one
            self._next_look = time.monotonic() + LOOK_AGAIN_S
            if old is not None and is_remote(old.address):
                return self._look_far(old)
            try:
                # In an empty context, because the instance outlives the request that starts it. Its threads and tasks
                # must not inherit the context variables of the request.
                self._client = contextvars.Context().run(self._start) if self._local else self._look(old)
            except (NotConnected, ConfigError) as error:
                if old is None:
                    self._note_failure(error)
                    raise
                if os.path.exists(old.address):
                    return old  # replicas answer requests while their controller is down
                self._client = None  # a shutdown removes the file, so new requests can fail at once
                afterwards.callback(old.close)
                raise
            found = self._client
            if old is not None and old is not found and not self._local:
                afterwards.callback(old.close)
                _logger.warning("the instance was restarted; connected to %s", found.address)
            return found

    def _note_failure(self, error: Exception) -> None:
        """Note that a look over a network failed: the next looks may take as long."""
        address = self._address or os.environ.get(ADDRESS_VARIABLE, "")
        if is_remote(str(address)) and isinstance(error, NotConnected):
            self._failure, self._next_look = error, time.monotonic() + LOOK_AGAIN_S

    def _look_far(self, old: Client) -> Client:
        """Look for the instance over a network on another thread. Wait for a short time only, and return the client."""
        if self._looking is None or self._looking.done():
            self._looking = _far_looks.submit(self._replace, old)
        with contextlib.suppress(TimeoutError):
            return self._looking.result(FAR_LOOK_S)
        return old

    def _replace(self, old: Client) -> Client:
        """Return the client of the instance at the address of *old*. If it is another one, close *old*."""
        try:
            found = self._look(old)
        except (NotConnected, ConfigError):
            return old  # replicas answer requests while their controller is down
        if found is not old:
            self._client = found
            _logger.warning("the instance was restarted; connected to %s", found.address)
            old.close()
        return found

    def _look(self, old: Client | None) -> Client:
        def may_run(found: Instance) -> bool:
            return (old is not None and old.generation == found.generation) or not refuses(found)

        try:
            found = find_instance(self._address, self._name, may_run)
        except UnusableFile as error:  # the file is at fault, not the app, and may be replaced
            raise NotConnected(str(error)) from error
        if old is not None and old.generation == found.generation:
            return old
        return client_of(found, self._address)

    def _start(self) -> Client:
        # Late: most apps join an instance, and do not deploy to it.
        from serve_bridge.client.instance_start import start_local
        from serve_bridge.deployment.deploy import deploy

        client = start_local(f"local-{os.getpid()}-{secrets.token_hex(4)}")
        try:
            declared = list(self._declared())
            if declared:
                deploy(*declared, client=link_of(client))
        except BaseException:
            client.shutdown()
            raise
        self._pid = os.getpid()
        return client

    def _drop(self, client: Client) -> None:
        if not self._local:
            client.close()
        elif self._pid == os.getpid():
            client.shutdown()


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
