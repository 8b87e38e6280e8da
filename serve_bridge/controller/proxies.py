"""The proxies of an instance: one on the first node, or one on every node, or none.

Rule 1: all proxies listen on one port. The replacement of a dead proxy gets the same port.
Rule 2: the controller notices new nodes and lost nodes.
Rule 3: a proxy with a blocked event loop is replaced (see `proxy_probes`).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from serve_bridge.config.http_options import HTTPOptions, Location
from serve_bridge.controller.checkpoint import ProxySnapshot
from serve_bridge.controller.contact import Contact
from serve_bridge.controller.proxy_probes import ProxyProbes
from serve_bridge.controller.runtime import Runtime
from serve_bridge.controller.tracked_proxy import LoopProgress, TrackedProxy
from serve_bridge.errors import AuthenticationError
from serve_bridge.instance.instance_status import NodeStatus, ProxyStatus
from serve_bridge.process.backoff import Backoff
from serve_bridge.specs import InstanceSpec, ProxySpec
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.caller_end import CallerConnection
from serve_bridge.wire.dialling import NoListener
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.keys import Key, Role

WATCH_S: Final = 2.0
"""Seconds between two checks of the proxies, and between two looks at the nodes."""
RELAUNCH: Final = Backoff(shortest_s=0.1, longest_s=10.0)
"""Waits between the tries to start a proxy on a node."""
DRAIN_S: Final = 10.0
"""Upper limit for the requests of a proxy during shutdown, in seconds."""
STATISTICS_S: Final = 1.0
"""Upper limit for a proxy to tell its counters, and for the runtime to list the nodes, in seconds."""

_logger = logging.getLogger("serve_bridge.controller")


class Proxies:
    """The proxies of one instance."""

    def __init__(
        self, spec: InstanceSpec, key: Key, runtime: Runtime, contact: Contact, *, on_change: Callable[[], object]
    ) -> None:
        """*on_change* is called when a proxy has started after `start`."""
        self._spec = spec
        self._key = key
        self._runtime = runtime
        self._contact = contact
        self._on_change = on_change
        self._probes = ProxyProbes(runtime, self._died)
        self._controller = SocketAddress("", "")
        self._http = HTTPOptions(host=None)
        self._proxies: dict[str, TrackedProxy] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._nodes: dict[str, str] = {}
        self._failures: dict[str, str] = {}
        self._closed = False

    @property
    def snapshots(self) -> list[ProxySnapshot]:
        """The running proxies, for the checkpoint."""
        return [proxy.snapshot for proxy in self._proxies.values()]

    @property
    def port(self) -> int:
        """The port of all proxies; 0: the first one has not chosen it yet."""
        return self._http.port

    @property
    def urls(self) -> list[str]:
        """Base URLs of the running proxies."""
        return [proxy.url for proxy in self._proxies.values()]

    # what `status` shows

    async def nodes(self) -> dict[str, NodeStatus]:
        """Return the status of each node, by its id."""
        try:
            async with asyncio.timeout(STATISTICS_S):
                self._nodes = await self._runtime.nodes()
        except Exception as error:  # without Ray's control plane, the nodes of the last look are shown
            _logger.debug("the nodes are not known: %s", error)
        return {
            node: NodeStatus(
                address=address,
                proxy=self._proxies[node].url if node in self._proxies else None,
                failure=self._failures.get(node),
            )
            for node, address in self._nodes.items()
        }

    async def statistics(self) -> dict[str, ProxyStatus]:
        """Return the status of each proxy, by its id, with its counters since it started."""
        proxies = list(self._proxies.values())
        found = await asyncio.gather(*(self._status_of(proxy) for proxy in proxies))
        return {proxy.id: status for proxy, status in zip(proxies, found, strict=True)}

    async def _status_of(self, proxy: TrackedProxy) -> ProxyStatus:
        refused: dict[str, int] | None = None
        try:
            refused = (await proxy.control("@statistics", timeout_s=STATISTICS_S))["refused"]
        except Exception as error:  # the rest of the status is shown in any case
            _logger.debug("%s does not tell its counters: %s", proxy, error)
        return ProxyStatus(url=proxy.url, refused=refused)

    # the instance begins and ends

    async def start(self, http: HTTPOptions, controller: SocketAddress) -> None:
        """Start the proxies of the options *http*, and replace lost ones from then on.

        Raises:
            OSError, ValueError: The first proxy cannot listen at its address; no proxy is left.
        """
        self._http, self._controller = http, controller
        if http.location == Location.NoServer:
            return
        self._nodes = await self._runtime.nodes()
        first, *others = self._nodes
        await self._launch(first)
        if http.location == Location.EveryNode:
            for node in others:
                self._keep(node)
        self._watch()

    async def recover(self, found: ProxySnapshot) -> None:
        """Take over a proxy of a former controller, unless it has ended."""
        proxy = TrackedProxy(found.id, found.node, found.url, found.address)
        try:
            connection = await self._contact.connect(proxy)
        except (NoListener, AuthenticationError) as error:
            _logger.warning("%s did not survive the controller: %s", proxy, error)
            await self._runtime.stop(proxy.id)
        except Lost:
            self._proxies[proxy.node] = proxy
            self._tasks[proxy.node] = asyncio.create_task(self._reconnect(proxy))
        else:
            self._proxies[proxy.node] = proxy
            self._attach(proxy, connection)

    def resume(self, http: HTTPOptions, controller: SocketAddress) -> None:
        """Keep the recovered proxies, and start missing ones of the options *http*."""
        self._http, self._controller = http, controller
        if http.location != Location.NoServer:
            self._watch()

    async def announce(self) -> None:
        """Tell all proxies where the controller is."""
        await asyncio.gather(*(proxy.announce(self._controller) for proxy in list(self._proxies.values())))

    async def stop(self) -> None:
        """Drain every proxy, then end it."""
        self._closed = True
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await asyncio.gather(*(self._stop(proxy) for proxy in list(self._proxies.values())))
        self._proxies.clear()

    async def _stop(self, proxy: TrackedProxy) -> None:
        if proxy.connection is not None:
            await proxy.drain(DRAIN_S)
            proxy.disconnect()
        await self._runtime.stop(proxy.id)

    # one proxy begins, and is lost

    async def _launch(self, node: str) -> None:
        spec = ProxySpec(
            proxy=f"proxy-{secrets.token_hex(3)}",
            node=node,
            generation=self._spec.generation,
            controller=self._controller,
            directory=self._spec.directory,
            tcp_host=self._spec.tcp_host,
            http=self._http,
            network=self._spec.network,
        )
        try:
            address, url = await self._runtime.launch_proxy(spec, self._key.only(Role.EDGE, Role.CONTROLLER))
            proxy = TrackedProxy(spec.proxy, node, reachable_url(url, self._nodes.get(node)), address)
            connection = await self._contact.connect(proxy)
        except BaseException:
            await self._runtime.stop(spec.proxy)
            raise
        self._http = replace(self._http, port=int(url.rpartition(":")[2]))
        self._proxies[node] = proxy
        self._attach(proxy, connection)

    def _attach(self, proxy: TrackedProxy, connection: CallerConnection) -> None:
        proxy.attach(connection, lambda changed: self._connection_changed(proxy, changed))
        proxy.progress = LoopProgress()

    def _connection_changed(self, proxy: TrackedProxy, connection: CallerConnection) -> None:
        """Connect again to *proxy*; it may serve although its connection to the controller broke."""
        if not self._closed and proxy.connection is connection:
            proxy.connection = None
            self._tasks[proxy.node] = asyncio.create_task(self._reconnect(proxy))

    async def _reconnect(self, proxy: TrackedProxy) -> None:
        connection = await self._contact.reconnect(proxy)
        if connection is None:
            self._died(proxy)
            return
        self._attach(proxy, connection)
        _logger.info("%s can be reached again", proxy)
        await proxy.announce(self._controller)

    def _died(self, proxy: TrackedProxy) -> None:
        if self._closed or self._proxies.get(proxy.node) is not proxy:
            return
        del self._proxies[proxy.node]
        proxy.disconnect()
        _logger.warning("%s died", proxy)
        self._keep(proxy.node, instead_of=proxy)

    # every node keeps its proxy

    def _keep(self, node: str, instead_of: TrackedProxy | None = None) -> None:
        self._tasks[node] = asyncio.create_task(self._relaunch(node, instead_of))

    async def _relaunch(self, node: str, instead_of: TrackedProxy | None) -> None:
        if instead_of is not None:  # its process may still run, and hold the port
            await self._runtime.stop(instead_of.id)
        waits_s = RELAUNCH.waits_s()
        while node in await self._alive():
            try:
                await self._launch(node)
            except Exception as error:  # any error: without another try, the node would have no proxy for good
                _logger.warning("cannot start a proxy: %s", error)
                self._failures[node] = str(error) or type(error).__name__
            else:
                self._failures.pop(node, None)
                self._on_change()
                return
            await asyncio.sleep(next(waits_s))

    async def _alive(self) -> dict[str, str]:
        """Return the addresses of the live nodes, by id, and note them."""
        self._nodes = await self._runtime.nodes()
        self._failures = {node: failure for node, failure in self._failures.items() if node in self._nodes}
        return self._nodes

    def _watch(self) -> None:
        self._tasks["watch"] = asyncio.create_task(self._repeat(self._check_all))
        self._tasks["follow"] = asyncio.create_task(self._repeat(self._follow_nodes))

    async def _repeat(self, look: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await look()
            except Exception:  # the next look follows in any case
                _logger.exception("cannot look after the proxies")
            await asyncio.sleep(WATCH_S)

    async def _check_all(self) -> None:
        await self._probes.check_all(list(self._proxies.values()))

    async def _follow_nodes(self) -> None:
        nodes = list(await self._alive())
        if self._http.location != Location.EveryNode:
            # The only proxy belongs on the controller's node. It stays where it is if the controller has moved.
            nodes = nodes[:1] if not self._proxies else []
        for node in nodes:
            task = self._tasks.get(node)
            if node not in self._proxies and (task is None or task.done()):
                self._keep(node)


def reachable_url(url: str, address: str | None) -> str:
    """Return *url* with the *address* of its node in place of 0.0.0.0 or [::]."""
    scheme, _, rest = url.partition("://")
    host, _, port = rest.rpartition(":")
    if address is None or host not in ("0.0.0.0", "[::]"):
        return url
    return f"{scheme}://{f'[{address}]' if ':' in address else address}:{port}"
