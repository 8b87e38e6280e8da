"""A proxy process: an HTTP server for clients, a router behind it, and a socket for the controller."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from serve_bridge.http_server.buffers import Buffers
from serve_bridge.http_server.refusal_log import RefusalLog
from serve_bridge.http_server.server import HttpServer
from serve_bridge.instance import controller_question, port_keeper
from serve_bridge.process.task_set import TaskSet
from serve_bridge.proxy.app import ProxyApp
from serve_bridge.proxy.shared_port import SharedPort
from serve_bridge.routing.controller_link import ControllerLink
from serve_bridge.routing.router import Router
from serve_bridge.specs import ProxySpec
from serve_bridge.wire import calls_answered
from serve_bridge.wire.address import SocketAddress
from serve_bridge.wire.frames import Frame, Kind
from serve_bridge.wire.keys import RETIRED_S, Key, Role
from serve_bridge.wire.listener import Listener
from serve_bridge.wire.replica_end import ReplicaStream
from serve_bridge.wire.streams import ANSWER_WINDOW

_logger = logging.getLogger("serve_bridge.proxy")


class Proxy:
    """One proxy, on the loop of its start."""

    def __init__(self, spec: ProxySpec, key: Key) -> None:
        self._spec = spec
        self._key = key
        self._listener = Listener(self, key, spec.generation, spec.proxy)
        self._tasks = TaskSet(_logger)
        self._server: HttpServer | None = None
        self._refusals = RefusalLog(_logger)
        self._port = SharedPort(port_keeper.socket_path(Path(spec.directory), spec.node))
        self._operations: dict[str, Callable[..., Awaitable[Any]]] = {
            "@drain": self.drain,
            "@give_port": self._port.give,
            "@keys": self.renew_keys,
            "@move": self.move,
            "@statistics": self.statistics,
        }

    async def start(self) -> tuple[SocketAddress, str]:
        """Serve. Return the address for the controller and the base URL for clients.

        Raises:
            OSError, ValueError: The proxy cannot listen on its host and port.
        """
        spec = self._spec
        self._router = Router(self._key, Role.EDGE)
        refusals = self._refusals
        buffers = Buffers(spec.http.max_buffered_bytes, _logger)
        app = ProxyApp(self._router, spec.http, buffers, refusals)
        self._link = ControllerLink(
            spec.controller, self._key, spec.generation, Role.EDGE, app.apply, listeners=self._other_listeners
        )
        self._router.expects_table_s = self._link.expects_table_s
        self._server = HttpServer(
            app,
            spec.http,
            cancels=True,
            buffers=buffers,
            refusals=refusals,
            answer_window_bytes=ANSWER_WINDOW,
            listen=self._port.listen,
        )
        self._link.start()
        await self._link.ready()
        url = await self._server.start()
        network, host = spec.network, spec.tcp_host
        where = Path(spec.directory)
        return await self._listener.listen(where, host, network.ports, network.advertised(host or "")), url

    def load(self) -> int:
        """Return 0, because no caller balances load over proxies."""
        return 0

    def accept(self, stream: ReplicaStream, frame: Frame, role: Role) -> None:
        """Accept an operation of the controller, or a question for the address of the controller."""
        if frame.kind == Kind.REQUEST and controller_question.is_question(frame):
            controller_question.answer(stream, self._link.controller)
            return
        head = calls_answered.decode_call(frame.payload) if frame.kind == Kind.CALL else None
        operation = None if head is None else self._operations.get(head.call_method)
        if head is None or operation is None:
            stream.reject("not exposed", "a proxy's operation")
            return
        self._tasks.start(calls_answered.answer_control(stream, head, operation))

    def _other_listeners(self) -> list[SocketAddress]:
        table = self._router.table
        return [] if table is None else table.listeners()

    async def move(self, controller: SocketAddress) -> None:
        """Connect to the controller at *controller* from now on."""
        self._link.move(controller)

    async def renew_keys(self, text: str) -> None:
        """Use the new keys in *text*. Connections with a retired key end soon."""
        self._key.replace(Key.of_text(text))
        self._listener.end_stale(RETIRED_S)

    async def statistics(self) -> dict[str, Any]:
        """Return the counters of this proxy: `refused`, its refused requests by status."""
        return {"refused": {str(status): count for status, count in sorted(self._refusals.counts.items())}}

    async def drain(self, grace_s: float) -> None:
        """Answer all accepted requests, then close. This takes at most *grace_s* seconds."""
        self._listener.stop_keeping()
        if self._server is not None:
            await self._server.drain(grace_s)
            await self._server.stop()

    def close(self) -> None:
        """Close all connections at once."""
        self._listener.close()
        if self._server is not None:
            self._tasks.start(self._server.stop())
            self._tasks.start(self._link.close())
            self._router.close()
