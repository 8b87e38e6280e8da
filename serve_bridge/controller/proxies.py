"""The proxies the controller runs: one on the first node, or one on every node, or none.

Rule 1: all listen on one port; a proxy that died comes back on the port it had.
Rule 2: nodes that join or leave are followed.
Rule 3: a proxy that does not answer is ended, but not while its loop makes progress: then it is busy, and to end it
    would break all its connections. Nor while its host cannot be reached: then it may serve others.
Rule 4: whether a proxy lives is asked over the data plane, and waits for no answer of Ray's control plane.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from serve_bridge.config.http_options import HTTPOptions, Location
from serve_bridge.controller.contact import regained
from serve_bridge.controller.runtime import Runtime
from serve_bridge.errors import AuthenticationError
from serve_bridge.process.backoff import Backoff
from serve_bridge.specs import ProxySpec
from serve_bridge.wire import calls_made as calls
from serve_bridge.wire.address import ReplicaAddress
from serve_bridge.wire.auth import Key, Role
from serve_bridge.wire.caller_end import CallerConnection
from serve_bridge.wire.endings import Lost
from serve_bridge.wire.host import GONE_S
from serve_bridge.wire.listener import NobodyListens, dial_running

WATCH_S: Final = 2.0
SUSPECT_S: Final = 5.0
SILENT_S: Final = 10.0
BUSY_S: Final = 60.0
"""How long a proxy may be silent before the controller asks whether it is busy, before it is ended, and before it is
ended though it is busy."""
PROGRESS: Final = 0.01
"""A loop that uses less of a processor than this stands still."""
RELAUNCH: Final = Backoff(shortest_s=0.1, longest_s=10.0)
"""Waits between the tries to start a proxy on a node."""
DRAIN_S: Final = 10.0
ANNOUNCE_S: Final = 10.0
STATISTICS_S: Final = 1.0
"""Time that a proxy has to tell what it has counted."""

_logger = logging.getLogger("serve_bridge.controller")


@dataclass(frozen=True)
class RunningProxy:
    """What a restarted controller must know of a proxy."""

    id: str
    node: str
    url: str
    address: ReplicaAddress


@dataclass
class _Proxy:
    facts: RunningProxy
    connection: CallerConnection | None = None
    looks: int = 0
    used_s: float | None = None
    used_at: float = 0.0
    is_busy: bool = False


class Proxies:
    """The proxies of one instance."""

    def __init__(
        self,
        runtime: Runtime,
        key: Key,
        *,
        generation: str,
        directory: str,
        tcp_host: str | None,
        on_change: Callable[[], object],
    ) -> None:
        """*on_change* is called when a proxy has come or gone after `start`."""
        self._on_change = on_change
        self._runtime = runtime
        self._key = key
        self._generation = generation
        self._directory = directory
        self._tcp_host = tcp_host
        self._controller = ReplicaAddress("", "")
        self._http = HTTPOptions(host=None)
        self._proxies: dict[str, _Proxy] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._nodes: dict[str, str] = {}
        self._failures: dict[str, str] = {}
        self._closed = False

    @property
    def running(self) -> list[RunningProxy]:
        """The proxies that run."""
        return [proxy.facts for proxy in self._proxies.values()]

    @property
    def port(self) -> int:
        """The port all of them have; 0 before the first of a free choice."""
        return self._http.port

    @property
    def urls(self) -> list[str]:
        """Base URLs of the proxies that run."""
        return [proxy.facts.url for proxy in self._proxies.values()]

    async def nodes(self) -> dict[str, dict[str, Any]]:
        """Return each node's `address`, the URL of its `proxy`, and the `failure` for which it has none, by its id."""
        try:
            async with asyncio.timeout(STATISTICS_S):
                self._nodes = await self._runtime.nodes()
        except Exception as error:  # what is known is wanted while Ray's control plane is away
            _logger.debug("the nodes are not known: %s", error)
        return {
            node: {
                "address": address,
                "proxy": self._proxies[node].facts.url if node in self._proxies else None,
                "failure": self._failures.get(node),
            }
            for node, address in self._nodes.items()
        }

    async def statistics(self) -> dict[str, dict[str, Any]]:
        """Return the URL of each proxy, and what it has counted since it started, by the proxy's id.

        `refused` is the number of requests that the proxy did not serve, by status; None: the proxy does not answer.
        """
        proxies = list(self._proxies.values())
        counted = await asyncio.gather(*(self._statistics_of(proxy) for proxy in proxies))
        return {
            proxy.facts.id: {"url": proxy.facts.url, **found} for proxy, found in zip(proxies, counted, strict=True)
        }

    async def _statistics_of(self, proxy: _Proxy) -> dict[str, Any]:
        if proxy.connection is None:
            return {"refused": None}
        try:
            found: dict[str, Any] = await calls.control(proxy.connection, "@statistics", timeout_s=STATISTICS_S)
        except Exception as error:  # however it went, the status of all else is wanted
            _logger.debug("proxy %s does not tell what it has counted: %s", proxy.facts.id, error)
            return {"refused": None}
        return found

    async def start(self, http: HTTPOptions, controller: ReplicaAddress) -> None:
        """Start the proxies that *http* asks for, and keep them from then on.

        Raises:
            OSError, ValueError: The first one cannot listen where it should; none is left.
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

    async def adopt(self, found: RunningProxy) -> None:
        """Take over a proxy of a controller that has ended; one that has ended too is forgotten."""
        try:
            connection = await dial_running(found.address, self._key, self._generation, Role.CONTROLLER)
        except (NobodyListens, AuthenticationError) as error:
            _logger.warning("proxy %s did not survive the controller: %s", found.id, error)
            await self._runtime.stop(found.id)
        except Lost:
            proxy = self._proxies[found.node] = _Proxy(found)
            self._tasks[found.node] = asyncio.create_task(self._regain(proxy))
        else:
            self._add(found, connection)

    def resume(self, http: HTTPOptions, controller: ReplicaAddress) -> None:
        """Keep the proxies that *http* asks for, from those that were adopted."""
        self._http, self._controller = http, controller
        if http.location != Location.NoServer:
            self._watch()

    async def announce(self) -> None:
        """Tell all proxies where the controller is."""
        await asyncio.gather(*(self._announce(proxy) for proxy in list(self._proxies.values())))

    async def _announce(self, proxy: _Proxy) -> None:
        if proxy.connection is None:
            return  # it is told once it can be reached again
        try:
            await calls.control(proxy.connection, "@move", self._controller, timeout_s=ANNOUNCE_S)
        except Exception as error:  # it is busy, or about to be found dead
            _logger.warning("proxy %s was not told where the controller is: %s", proxy.facts.id, error)

    async def stop(self) -> None:
        """Let every proxy finish what it has accepted, then end it."""
        self._closed = True
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await asyncio.gather(*(self._stop(proxy) for proxy in list(self._proxies.values())))
        self._proxies.clear()

    async def _stop(self, proxy: _Proxy) -> None:
        connection, proxy.connection = proxy.connection, None
        if connection is not None:
            connection.on_change = None
            try:
                await calls.control(connection, "@drain", DRAIN_S, timeout_s=DRAIN_S * 2)
            except Exception as error:  # however it went, the proxy is ended
                _logger.warning("proxy %s did not drain: %s", proxy.facts.id, error or type(error).__name__)
            connection.close()
        await self._runtime.stop(proxy.facts.id)

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
            address, url = await self._runtime.launch_proxy(spec, self._key.only(Role.EDGE, Role.CONTROLLER))
            connection = await dial_running(address, self._key, self._generation, Role.CONTROLLER)
        except BaseException:
            await self._runtime.stop(spec.proxy)
            raise
        self._http = replace(self._http, port=int(url.rpartition(":")[2]))
        self._add(RunningProxy(spec.proxy, node, reachable_url(url, self._nodes.get(node)), address), connection)

    def _add(self, facts: RunningProxy, connection: CallerConnection) -> None:
        proxy = self._proxies[facts.node] = _Proxy(facts)
        self._attach(proxy, connection)

    def _attach(self, proxy: _Proxy, connection: CallerConnection) -> None:
        proxy.connection = connection
        proxy.looks, proxy.used_s, proxy.is_busy = 0, None, False
        connection.on_change = lambda: self._lost(proxy, connection)

    def _lost(self, proxy: _Proxy, connection: CallerConnection) -> None:
        """The connection to *proxy* broke; the proxy may serve on."""
        if not self._closed and proxy.connection is connection:
            proxy.connection = None
            self._tasks[proxy.facts.node] = asyncio.create_task(self._regain(proxy))

    async def _regain(self, proxy: _Proxy) -> None:
        facts = proxy.facts
        ended = partial(self._runtime.has_ended, facts.id)
        connection = await regained(facts.address, self._key, self._generation, Role.CONTROLLER, ended)
        if connection is None:
            self._died(proxy)
            return
        self._attach(proxy, connection)
        _logger.info("proxy %s can be reached again", facts.id)
        await self._announce(proxy)

    def _died(self, proxy: _Proxy) -> None:
        node = proxy.facts.node
        if self._closed or self._proxies.get(node) is not proxy:
            return
        del self._proxies[node]
        connection, proxy.connection = proxy.connection, None
        if connection is not None:
            connection.close()
        _logger.warning("proxy %s died", proxy.facts.id)
        self._keep(node, instead_of=proxy.facts.id)

    def _keep(self, node: str, instead_of: str | None = None) -> None:
        self._tasks[node] = asyncio.create_task(self._relaunch(node, instead_of))

    async def _relaunch(self, node: str, instead_of: str | None) -> None:
        if instead_of is not None:  # it may have lost its connection only, and hold the port
            await self._runtime.stop(instead_of)
        waits_s = RELAUNCH.waits_s()
        while node in await self._alive():
            try:
                await self._launch(node)
            except Exception as error:  # whatever it is: giving up would leave the node without a proxy
                _logger.warning("cannot start a proxy: %s", error)
                self._failures[node] = str(error) or type(error).__name__
            else:
                self._failures.pop(node, None)
                self._on_change()
                return
            await asyncio.sleep(next(waits_s))

    async def _alive(self) -> dict[str, str]:
        self._nodes = await self._runtime.nodes()
        self._failures = {node: failure for node, failure in self._failures.items() if node in self._nodes}
        return self._nodes

    def _watch(self) -> None:
        self._tasks["watch"] = asyncio.create_task(self._for_ever(self._check_all))
        self._tasks["follow"] = asyncio.create_task(self._for_ever(self._follow_nodes))

    async def _for_ever(self, look: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await look()
            except Exception:  # a look that failed is followed by the next
                _logger.exception("cannot look after the proxies")
            await asyncio.sleep(WATCH_S)

    async def _check_all(self) -> None:
        connected = [(proxy, proxy.connection) for proxy in self._proxies.values() if proxy.connection is not None]
        await asyncio.gather(*(self._check(proxy, connection) for proxy, connection in connected))

    async def _check(self, proxy: _Proxy, connection: CallerConnection) -> None:
        """End *proxy* if it has been silent for too long; ping it otherwise."""
        if connection.is_host_silent(GONE_S):
            connection.close()  # it is dialled again, until it answers or has ended
            return
        if _silent_s(connection) <= SUSPECT_S:
            proxy.looks, proxy.used_s, proxy.is_busy = 0, None, False
        else:
            await self._look_at_loop(proxy)
        if connection.closed:
            return
        silent_s = _silent_s(connection)  # the answer may have come meanwhile
        # One look is not enough: progress shows in the second, and the controller may have stood still itself.
        if proxy.looks > 1 and silent_s > (BUSY_S if proxy.is_busy else SILENT_S):
            _logger.warning("proxy %s has not answered for %.0f s", proxy.facts.id, silent_s)
            self._died(proxy)
        else:
            connection.ping()

    async def _look_at_loop(self, proxy: _Proxy) -> None:
        """Note whether the loop of *proxy* has made progress since the last look."""
        now = asyncio.get_running_loop().time()
        before, before_at, was_busy = proxy.used_s, proxy.used_at, proxy.is_busy
        try:
            async with asyncio.timeout(WATCH_S):
                proxy.used_s = await self._runtime.used_s(proxy.facts.id)
        except TimeoutError:
            proxy.used_s = None
        proxy.used_at = now
        proxy.looks += 1
        used_s = 0.0 if before is None or proxy.used_s is None else proxy.used_s - before
        proxy.is_busy = used_s > PROGRESS * (now - before_at)
        if proxy.is_busy and not was_busy:
            _logger.warning("proxy %s is busy: its loop runs, and answers nothing", proxy.facts.id)

    async def _follow_nodes(self) -> None:
        nodes = list(await self._alive())
        if self._http.location != Location.EveryNode:
            # The controller's own, unless that has moved and its proxy stayed.
            nodes = nodes[:1] if not self._proxies else []
        for node in nodes:
            task = self._tasks.get(node)
            if node not in self._proxies and (task is None or task.done()):
                self._keep(node)


def reachable_url(url: str, address: str | None) -> str:
    """Return *url* with a node's *address* instead of a host that stands for all of its addresses."""
    scheme, _, rest = url.partition("://")
    host, _, port = rest.rpartition(":")
    if address is None or host not in ("0.0.0.0", "[::]"):
        return url
    return f"{scheme}://{f'[{address}]' if ':' in address else address}:{port}"


def _silent_s(connection: CallerConnection) -> float:
    return asyncio.get_running_loop().time() - connection.last_heard
