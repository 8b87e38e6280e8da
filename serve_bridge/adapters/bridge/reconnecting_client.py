"""An app's client, which outlasts instances: it is made on first use, and made anew when an instance was started anew.

Rule 1: nothing is read, connected or started before the first use; a forked child starts afresh.
Rule 2: it comes back by itself: an instance that was started anew is found where the old one was.
Rule 3: whether a controller answers is for the links to find, which wait for it once for all requests. Here only a file
    is read, but for the first look, and no event loop or executor of the app waits for that.
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
from typing import Any, Final

from serve_bridge.adapters.bridge.address import address_text
from serve_bridge.adapters.bridge.forwarded_route import ASYNC_TIMEOUT_S
from serve_bridge.client.client import Client, link_of
from serve_bridge.client.handle import Handle
from serve_bridge.client.instance_link import InstanceLink
from serve_bridge.client.instance_search import client_of, find_instance
from serve_bridge.errors import ConfigError, NotConnected
from serve_bridge.instance.instance import Instance
from serve_bridge.instance.instance_file import UnusableFile
from serve_bridge.instance.liveness import refuses
from serve_bridge.printable import shown
from serve_bridge.process.daemon_threads import DaemonThreads
from serve_bridge.routing.channel import Channel

LOOK_AGAIN_S: Final = 0.5
"""How often an app asks itself whether its instance has gone, and if it has, looks for a new one."""

_logger = logging.getLogger("serve_bridge.adapters")


class ReconnectingClient:
    """An app's client, whatever becomes of the instance."""

    def __init__(
        self,
        address: str | os.PathLike[str] | None = None,
        *,
        name: str = "default",
        runtime: str | None = None,
        timeout_s: float = ASYNC_TIMEOUT_S,
        declared: Callable[[], Iterable[Any]] = tuple,
    ) -> None:
        """Take where the instance is, or how to start one; used on the first request.

        Args:
            address: What `serve_bridge.connect` takes.
            name: Which of this user's instances, without an address.
            runtime: None joins a running instance. "local" starts one inside this process, for development and
                tests; it ends with the process, or by `close`.
            timeout_s: Seconds a request may take where its route says nothing else.
            declared: Returns what `serve_bridge.deploy` takes; deployed to an instance that is started here.

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

    @property
    def is_local(self) -> bool:
        """Whether its instance is inside this process."""
        return self._local

    def client(self) -> Client:
        """Return the app's client.

        Raises:
            NotConnected: No instance is running where it was looked for; the next call looks again.
            ConfigError: The address is none; or this process has no real sockets and threads.
        """
        client = self._client
        if client is not None and not self._is_doubtful(client):
            return client
        return self._find()

    def link(self) -> InstanceLink:
        """Return the link of `client`."""
        return link_of(self.client())

    async def alink(self) -> InstanceLink:
        """Same as `link`, for a running loop."""
        return link_of(await self.aclient())

    async def aclient(self) -> Client:
        """Same as `client`, for a running loop, which looking for an instance must not hold up."""
        client = self._client
        if client is not None and not self._is_doubtful(client):
            return client
        return await asyncio.wrap_future(_looks.submit(self._find))

    def channel_at(self, loop: asyncio.AbstractEventLoop) -> Channel | None:
        """Return the way into the instance from *loop*, which runs, if that takes no waiting."""
        client = self._client
        return None if client is None or self._is_doubtful(client) else link_of(client).channel_at(loop)

    def get_handle(self, endpoint: str) -> Handle:
        """Return a handle of the app's instance, whose calls may take as long as a forwarded request.

        An unknown endpoint shows when it is called.
        """
        return self.client().get_handle(endpoint, missing_ok=True).options(timeout_s=self.timeout_s)

    def close(self) -> None:
        """Let go of the instance, and end it if it was started here; the next use connects again."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            self._drop(client)

    async def aclose(self) -> None:
        """Same as `close`, for a running loop."""
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
        """Return the client of the instance that is there now; the old one is closed if that is another."""
        # Concurrent first requests wait for one another, and only then; for none of them does closing hold the lock.
        with contextlib.ExitStack() as afterwards, self._lock:
            old = self._client
            if old is not None and not self._is_doubtful(old):
                return old
            self._next_look = time.monotonic() + LOOK_AGAIN_S
            try:
                # In a context of its own: what lives as long as the process must not know of the request that began it.
                self._client = contextvars.Context().run(self._start) if self._local else self._look(old)
            except (NotConnected, ConfigError):
                if old is None:
                    raise
                if os.path.exists(old.address):
                    return old  # its replicas may serve on without their controller
                self._client = None  # it was shut down, and took its file along: requests need not wait to find out
                afterwards.callback(old.close)
                raise
            found = self._client
            if old is not None and old is not found and not self._local:
                afterwards.callback(old.close)
                _logger.warning("the instance was started anew; connected to %s", found.address)
            return found

    def _look(self, old: Client | None) -> Client:
        def may_run(found: Instance) -> bool:
            return (old is not None and old.generation == found.generation) or not refuses(found)

        try:
            found = find_instance(self._address, self._name, may_run)
        except UnusableFile as error:  # the app is right, and the next request may find another file
            raise NotConnected(str(error)) from error
        if old is not None and old.generation == found.generation:
            return old
        return client_of(found, self._address)

    def _start(self) -> Client:
        from serve_bridge.client.instance_start import start_local  # late: most apps join an instance
        from serve_bridge.deployment.deploy import (
            deploy,  # late: most apps join an instance that somebody else deploys to
        )

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


def _start_afresh() -> None:
    """Have no thread, in a new process and in a forked one."""
    global _looks
    # One thread: of several requests that need the client one finds it, and the others take it from there.
    _looks = DaemonThreads(1, "serve_bridge-look", idle_s=1.0)


_start_afresh()
os.register_at_fork(after_in_child=_start_afresh)
