"""The proxies of an instance: on the first node, or on every node, or none; `proxies_per_node` on each of these.

Rule 1: all proxies listen on one port. The proxies of a node share one listening socket, which stays open while they
    end and begin (see `kept_ports`).
Rule 2: the controller notices new nodes and lost nodes.
Rule 3: a proxy with a blocked event loop is replaced (see `proxy_probes`).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import replace
from typing import Any, Final

from serve_bridge.config.http_options import HTTPOptions, Location
from serve_bridge.controller.checkpoint import ProxySnapshot
from serve_bridge.controller.contact import Contact
from serve_bridge.controller.kept_ports import KeptPorts
from serve_bridge.controller.proxy_probes import ProxyProbes
from serve_bridge.controller.runtime import Runtime
from serve_bridge.controller.tracked_proxy import LoopProgress, Seat, TrackedProxy
from serve_bridge.errors import AuthenticationError, ControlPlaneLost
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
MOST_FAILURES: Final = 3
"""Number of failed starts in a row after which the port of a node without a proxy closes.

Clients are then refused at once, and load balancers choose another node.
"""
DRAIN_S: Final = 10.0
"""Upper limit for the requests of a proxy during shutdown, in seconds."""
STATISTICS_S: Final = 1.0
"""Upper limit for a proxy to tell its counters, and for the runtime to list the nodes, in seconds."""

OF_PROXIES: Final = (Role.EDGE, Role.CONTROLLER)
"""The roles whose keys a proxy has: its own, and that of the controller as its caller."""

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
        self._ports = KeptPorts(runtime, spec.directory)
        self._controller = SocketAddress("", "")
        self._http = HTTPOptions(host=None)
        self._proxies: dict[Seat, TrackedProxy] = {}
        self._tasks: dict[Seat, asyncio.Task[None]] = {}
        self._watches: list[asyncio.Task[None]] = []
        self._nodes: dict[str, str] = {}
        self._failures: dict[str, str] = {}
        self._renewing: Seat | None = None
        self._keys = ""
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
        """Base URLs of the running proxies. The proxies of one node have the same URL."""
        return list(dict.fromkeys(proxy.url for proxy in self._proxies.values()))

    # what `status` shows

    async def nodes(self) -> dict[str, NodeStatus]:
        """Return the status of each node, by its id."""
        try:
            async with asyncio.timeout(STATISTICS_S):
                self._nodes = await self._runtime.nodes()
        except Exception as error:  # without Ray's control plane, the nodes of the last look are shown
            _logger.debug("the nodes are not known: %s", error)
        urls = {proxy.node: proxy.url for proxy in self._proxies.values()}
        return {
            node: NodeStatus(address=address, proxy=urls.get(node), failure=self._failures.get(node))
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
        await self._launch((next(iter(self._nodes)), 0))
        self._fill_seats()
        self._watch()

    async def recover(self, found: ProxySnapshot) -> None:
        """Take over a proxy of a former controller, unless it has ended."""
        proxy = TrackedProxy(found.id, found.node, found.url, found.address, found.number)
        try:
            connection = await self._contact.connect(proxy)
        except (NoListener, AuthenticationError) as error:
            _logger.warning("%s did not survive the controller: %s", proxy, error)
            await self._runtime.stop(proxy.id)
        except Lost:
            self._proxies[proxy.seat] = proxy
            self._work(proxy.seat, self._reconnect(proxy))
        else:
            self._proxies[proxy.seat] = proxy
            self._attach(proxy, connection)

    def resume(self, http: HTTPOptions, controller: SocketAddress) -> None:
        """Keep the recovered proxies, and start missing ones of the options *http*."""
        self._http, self._controller = http, controller
        if http.location != Location.NoServer:
            self._watch()

    async def announce(self) -> None:
        """Tell all proxies where the controller is."""
        await asyncio.gather(*(proxy.announce(self._controller) for proxy in list(self._proxies.values())))

    async def renew_keys(self, text: str) -> None:
        """Give all proxies the new keys in *text*. Unreachable proxies get them on reconnection."""
        self._keys = text
        await asyncio.gather(*(proxy.renew_keys(text) for proxy in list(self._proxies.values())))

    async def stop(self) -> None:
        """Drain every proxy, then end it."""
        self._closed = True
        tasks = [*self._watches, *self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._ports.release_all()  # before the drain, which ends the last proxy of each port
        await asyncio.gather(*(self._stop(proxy) for proxy in list(self._proxies.values())))
        self._proxies.clear()

    async def _stop(self, proxy: TrackedProxy) -> None:
        if proxy.connection is not None:
            await proxy.drain(DRAIN_S)
            proxy.disconnect()
        await self._runtime.stop(proxy.id)

    async def renew(self) -> None:
        """Replace each proxy by a new process. It listens on the same port before the old one drains.

        Raises:
            Exception: A new proxy cannot start. The old one still serves.
        """
        for seat, old in list(self._proxies.items()):
            self._renewing = seat
            try:
                if await self._ports.keep(old.node, [old]):
                    await self._launch(seat)
                else:
                    await self._relaunch_in_place(seat, old)
            finally:
                self._renewing = None
            self._on_change()
            await self._stop(old)

    async def _relaunch_in_place(self, seat: Seat, old: TrackedProxy) -> None:
        """Replace *old*, which cannot share its port. New connections are refused for a moment."""
        _logger.warning("%s cannot share its port, which closes until its successor listens", old)
        draining = asyncio.create_task(old.drain(DRAIN_S))
        try:
            await self._relaunch(seat)
        finally:
            await draining

    # one proxy begins, and is lost

    async def _launch(self, seat: Seat) -> None:
        node, number = seat
        await self._ports.keep(node, list(self._proxies.values()))
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
            address, url = await self._runtime.launch_proxy(spec, self._key.only(*OF_PROXIES))
            proxy = TrackedProxy(spec.proxy, node, reachable_url(url, self._nodes.get(node)), address, number)
            connection = await self._contact.connect(proxy)
        except BaseException:
            await self._runtime.stop(spec.proxy)
            raise
        self._http = replace(self._http, port=int(url.rpartition(":")[2]))
        self._proxies[seat] = proxy
        self._attach(proxy, connection)

    def _attach(self, proxy: TrackedProxy, connection: CallerConnection) -> None:
        proxy.attach(connection, lambda changed: self._connection_changed(proxy, changed))
        proxy.progress = LoopProgress()

    def _connection_changed(self, proxy: TrackedProxy, connection: CallerConnection) -> None:
        """Connect again to *proxy*; it may serve although its connection to the controller broke."""
        if not self._closed and proxy.connection is connection:
            proxy.connection = None
            self._work(proxy.seat, self._reconnect(proxy))

    async def _reconnect(self, proxy: TrackedProxy) -> None:
        connection = await self._contact.reconnect(proxy)
        if connection is None:
            self._died(proxy)
            return
        self._attach(proxy, connection)
        _logger.info("%s can be reached again", proxy)
        await proxy.announce(self._controller)
        if self._keys:
            await proxy.renew_keys(self._keys)

    def _died(self, proxy: TrackedProxy) -> None:
        if self._closed or self._proxies.get(proxy.seat) is not proxy:
            return
        del self._proxies[proxy.seat]
        proxy.disconnect()
        _logger.warning("%s died", proxy)
        if proxy.seat != self._renewing:  # its successor starts already
            self._work(proxy.seat, self._relaunch(proxy.seat, proxy))

    # every seat keeps its proxy

    def _work(self, seat: Seat, work: Coroutine[Any, Any, None]) -> None:
        """Do *work* for *seat* until `stop`. Each seat has one work at a time; a work may end by starting the next."""
        task = self._tasks[seat] = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._tasks.pop(seat) if self._tasks.get(seat) is task else None)

    async def _relaunch(self, seat: Seat, instead_of: TrackedProxy | None = None) -> None:
        if instead_of is not None:  # its process may still run, and accept connections
            await self._runtime.stop(instead_of.id)
        node, _ = seat
        for failures, wait_s in enumerate(RELAUNCH.waits_s(), 1):
            if node not in await self._alive():
                return
            try:
                await self._launch(seat)
            except Exception as error:  # any error: without another try, the seat would have no proxy for good
                _logger.warning("cannot start a proxy: %s", error)
                self._failures[node] = str(error) or type(error).__name__
                if failures == MOST_FAILURES and not any(proxy.node == node for proxy in self._proxies.values()):
                    await self._ports.release(node)
            else:
                self._failures.pop(node, None)
                self._on_change()
                return
            await asyncio.sleep(wait_s)

    async def _alive(self) -> dict[str, str]:
        """Return the addresses of the live nodes, by id, and note them."""
        self._nodes = await self._runtime.nodes()
        self._failures = {node: failure for node, failure in self._failures.items() if node in self._nodes}
        await self._ports.keep_only(self._nodes)
        return self._nodes

    def _watch(self) -> None:
        looks = (self._check_all, self._follow_nodes, self._keep_ports)
        self._watches = [asyncio.create_task(self._repeat(look)) for look in looks]

    async def _repeat(self, look: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await look()
            except ControlPlaneLost as error:
                _logger.debug("the nodes are not known: %s", error)
            except Exception:  # the next look follows in any case
                _logger.exception("cannot look after the proxies")
            await asyncio.sleep(WATCH_S)

    async def _check_all(self) -> None:
        await self._probes.check_all(list(self._proxies.values()))

    async def _follow_nodes(self) -> None:
        await self._alive()
        self._fill_seats()

    def _fill_seats(self) -> None:
        """Start a proxy for each seat without one."""
        nodes: Iterable[str] = self._nodes
        if self._http.location != Location.EveryNode:
            # These proxies belong on the controller's node. They stay where they are if the controller has moved.
            nodes = [proxy.node for proxy in self._proxies.values()][:1] or list(nodes)[:1]
        for seat in ((node, number) for node in nodes for number in range(self._http.proxies_per_node)):
            if seat not in self._proxies and seat not in self._tasks:
                self._work(seat, self._relaunch(seat))

    async def _keep_ports(self) -> None:
        proxies = list(self._proxies.values())
        await asyncio.gather(*(self._ports.keep(node, proxies) for node in {proxy.node for proxy in proxies}))


def reachable_url(url: str, address: str | None) -> str:
    """Return *url* with the *address* of its node in place of 0.0.0.0 or [::]."""
    scheme, _, rest = url.partition("://")
    host, _, port = rest.rpartition(":")
    if address is None or host not in ("0.0.0.0", "[::]"):
        return url
    return f"{scheme}://{f'[{address}]' if ':' in address else address}:{port}"
