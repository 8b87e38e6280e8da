"""The proxies the controller runs: one on the first node, or one on every node, or none.

Rule 1: all listen on one port; a proxy that died comes back on the port it had.
Rule 2: nodes that join or leave are followed.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from dataclasses import dataclass, replace
from typing import Final

from serve_bridge.config import HTTPOptions, Location
from serve_bridge.errors import AuthenticationError, ServeBridgeError
from serve_bridge.messages import ReplicaAddress
from serve_bridge.runtime import Runtime
from serve_bridge.specs import ProxySpec
from serve_bridge.wire import calls
from serve_bridge.wire.auth import Key, Role
from serve_bridge.wire.connection import CallerConnection, Lost
from serve_bridge.wire.sockets import dial

FOLLOW_NODES_S: Final = 2.0
RELAUNCH_S: Final = (0.1, 10.0)
DRAIN_S: Final = 10.0

_logger = logging.getLogger("serve_bridge.controller")


@dataclass
class _Proxy:
    id: str
    node: str
    url: str
    connection: CallerConnection


class Proxies:
    """The proxies of one instance."""

    def __init__(self, runtime: Runtime, key: Key, *, generation: str, directory: str, tcp_host: str | None) -> None:
        self._runtime = runtime
        self._key = key
        self._generation = generation
        self._directory = directory
        self._tcp_host = tcp_host
        self._controller = ReplicaAddress("", "")
        self._http = HTTPOptions(host=None)
        self._proxies: dict[str, _Proxy] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    @property
    def ids(self) -> list[str]:
        """Ids of the proxies that run."""
        return [proxy.id for proxy in self._proxies.values()]

    @property
    def port(self) -> int:
        """The port all of them have; 0 before the first of a free choice."""
        return self._http.port

    @property
    def urls(self) -> list[str]:
        """Base URLs of the proxies that run."""
        return [proxy.url for proxy in self._proxies.values()]

    async def start(self, http: HTTPOptions, controller: ReplicaAddress) -> None:
        """Start the proxies that *http* asks for, and keep them from then on.

        Raises:
            OSError, ValueError: The first one cannot listen where it should; none is left.
        """
        self._http, self._controller = http, controller
        if http.location == Location.NoServer:
            return
        first, *others = await self._runtime.nodes()
        await self._launch(first)
        if http.location == Location.EveryNode:
            for node in others:
                self._keep(node)
            self._tasks[""] = asyncio.create_task(self._follow_nodes())

    async def stop(self) -> None:
        """Let every proxy finish what it has accepted, then end it."""
        self._closed = True
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*(self._stop(proxy) for proxy in list(self._proxies.values())))
        self._proxies.clear()

    async def _stop(self, proxy: _Proxy) -> None:
        proxy.connection.on_change = None
        try:
            await calls.control(proxy.connection, "@drain", DRAIN_S, timeout_s=DRAIN_S * 2)
        except (Lost, TimeoutError, ServeBridgeError) as error:
            _logger.warning("proxy %s did not drain: %s", proxy.id, error)
        proxy.connection.close()
        await self._runtime.stop(proxy.id)

    async def _launch(self, node: str) -> None:
        spec = ProxySpec(
            proxy=f"proxy-{secrets.token_hex(3)}",
            node=node,
            generation=self._generation,
            controller=self._controller,
            directory=self._directory,
            tcp_host=self._tcp_host,
            http=self._http,
        )
        try:
            address, url = await self._runtime.launch_proxy(spec, self._key)
            connection = await dial(address, self._key, self._generation, Role.PYTHON)
        except BaseException:
            await self._runtime.stop(spec.proxy)
            raise
        self._http = replace(self._http, port=int(url.rpartition(":")[2]))
        self._proxies[node] = _Proxy(spec.proxy, node, url, connection)
        connection.on_change = lambda: self._lost(node)

    def _lost(self, node: str) -> None:
        proxy = self._proxies.pop(node, None)
        if proxy is not None and not self._closed:
            _logger.warning("proxy %s died", proxy.id)
            self._keep(node)

    def _keep(self, node: str) -> None:
        self._tasks[node] = asyncio.create_task(self._relaunch(node))

    async def _relaunch(self, node: str) -> None:
        delay, longest = RELAUNCH_S
        while node in await self._runtime.nodes():
            try:
                await self._launch(node)
            except (OSError, ValueError, ServeBridgeError, Lost, AuthenticationError) as error:
                _logger.warning("cannot start a proxy: %s", error)
            else:
                return
            await asyncio.sleep(delay * (0.5 + random.random()))
            delay = min(delay * 2, longest)

    async def _follow_nodes(self) -> None:
        while True:
            await asyncio.sleep(FOLLOW_NODES_S)
            for node in await self._runtime.nodes():
                task = self._tasks.get(node)
                if node not in self._proxies and (task is None or task.done()):
                    self._keep(node)
