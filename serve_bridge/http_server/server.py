"""An HTTP server: a listener, its connections, and their end.

Rule 1: the server runs on the loop of its start, in any thread. It installs no signal handler and ends no process.
Rule 2: at the connection limit, a new connection evicts one without a request. If all connections have requests, the
new one waits in the kernel's queue.
Rule 3: a draining server still serves the connections in the kernel's queue.
"""

from __future__ import annotations

import asyncio
import math
import os
import resource
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from starlette.types import ASGIApp
from uvicorn.config import Config

from serve_bridge.config.http_options import HTTPOptions
from serve_bridge.http_server.acceptor import AT_ONCE, Acceptor, bracketed, listen
from serve_bridge.http_server.buffers import Buffers
from serve_bridge.http_server.certificate import CertificateRenewal, server_context
from serve_bridge.http_server.http_connection import HttpConnection
from serve_bridge.http_server.places import Place
from serve_bridge.http_server.refusal_log import RefusalLog
from serve_bridge.http_server.refusing_app import RefusingApp
from serve_bridge.http_server.state import ServerState
from serve_bridge.http_server.tls import listening_context
from serve_bridge.http_server.trusted_peers import BelievingApp
from serve_bridge.http_server.websocket_connection import WebSocketConnection

__all__ = ["HttpServer"]

SPARE_DESCRIPTORS: Final = 32
"""Number of file descriptors kept free of connections, for sockets to replicas and files of the process."""

RENEWAL_S: Final = 10.0
"""Time in seconds between two checks of the certificate's files."""

DRAIN_TICK_S: Final = 0.02
"""Time in seconds between two sweeps of a draining server."""
IDLE_GRACE_S: Final = 0.25
"""Upper limit for the idle time of a connection, in seconds, while the server is full or drains.

In this time the server still serves a request on its way to the server.
"""

CANCEL_GRACE_S: Final = 5.0
"""Upper limit for the time in which `stop` waits for cancelled requests, in seconds."""


class HttpServer:
    """Serves an ASGI application over HTTP/1.1 and WebSocket.

    Args:
        app: The application. The server puts it inside the middlewares of the options, and sends no lifespan events.
        options: Address, limits and deadlines.
        cancels: Whether the server cancels the task of a request when its client leaves. If not, the application learns
            of it only through `receive`.
        buffers: The bytes held for clients, shared with the application. None: the server counts alone.
        refusals: The count and log of refused requests, shared with the application. None: the server counts alone.
        answer_window_bytes: Upper limit for the unsent bytes of one answer in the application's memory.
        listen: Returns a listening socket, which other processes may share, for a host and a port.
    """

    def __init__(
        self,
        app: ASGIApp,
        options: HTTPOptions,
        *,
        cancels: bool = False,
        buffers: Buffers | None = None,
        refusals: RefusalLog | None = None,
        answer_window_bytes: int = 0,
        listen: Callable[[str, int], Awaitable[socket.socket]] = listen,
    ) -> None:
        self._options = options
        self._listen = listen
        app = with_middlewares(RefusingApp(app), options)
        most = most_connections(options.max_connections)
        self._state = ServerState(options, buffers, refusals, most, self._resume)
        self._state.cancels = cancels
        self._state.answer_window_bytes = answer_window_bytes
        self._config = Config(
            BelievingApp(app, self._state.trusted) if self._state.trusted else app,
            interface="asgi3",
            http=HttpConnection,
            lifespan="off",
            ws="none",  # `HttpConnection` hands a WebSocket over itself
            ws_max_size=options.max_message_bytes,
            ws_ping_interval=options.ping_interval_s,
            ws_ping_timeout=options.ping_interval_s,
            log_config=None,
            proxy_headers=False,
            server_header=False,
        )
        self._acceptor: Acceptor | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._renewal: CertificateRenewal | None = None
        self._looked_s = 0.0
        self._url = ""

    @property
    def url(self) -> str:
        """Base URL without a final slash; "" before `start`."""
        return self._url

    async def start(self) -> str:
        """Listen and serve. Return the base URL once the server accepts connections.

        Raises:
            ValueError: The host is unknown or is not an address of this machine, or the certificate is faulty.
            OSError: The port is taken or needs privileges. The message names host and port.
        """
        host, port = self._options.host, self._options.port
        if host is None:
            raise ValueError("these options have no host to listen on")
        if self._acceptor is not None:
            raise RuntimeError(f"already listening on {self._url}")
        tls = server_context(self._options)
        if tls is not None:
            self._renewal = CertificateRenewal(tls, self._options)
        self._config.load()
        self._state.set_date()
        listener = await self._listen(host, port)
        self._acceptor = Acceptor(
            listener,
            self._protocol,
            places=self._state.places,
            changed=self._state.connection_closed,
            logger=self._state.logger,
            tls=None if tls is None else listening_context(tls),
            handshake_timeout_s=self._options.header_timeout_s,
            closing_timeout_s=self._options.write_timeout_s,
            at_once=AT_ONCE if self._options.proxies_per_node == 1 else 1,
        )
        self._url = f"{'https' if tls else 'http'}://{bracketed(host)}:{listener.getsockname()[1]}"
        self._resume()
        options = self._options
        deadlines = (options.header_timeout_s, options.body_timeout_s, options.write_timeout_s)
        tick = min(1.0, max(0.01, min(*deadlines, options.keep_alive_timeout_s) / 4))
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep_every(tick))
        return self._url

    async def drain(self, grace_s: float, *, idle_grace_s: float = IDLE_GRACE_S) -> None:
        """Stop listening, answer all accepted requests, and close all connections.

        Args:
            grace_s: Upper limit for the time of all of this, in seconds.
            idle_grace_s: Time in seconds for which idle connections stay open, for requests on their way.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + grace_s
        self._state.draining = True
        self._state.idle_grace_s = min(idle_grace_s, grace_s / 2)
        if self._acceptor is None:
            return
        self._acceptor.close()
        told = self._open_websockets()
        for connection in list(self._state.connections):
            if isinstance(connection, HttpConnection):
                connection.drain()
            else:
                connection.shutdown()  # a WebSocket: 1012, service restart
        if self._sweeper is not None:  # deadlines are shorter now, so sweeps are more frequent
            self._sweeper.cancel()
            self._sweeper = loop.create_task(self._sweep_every(DRAIN_TICK_S))
        with suppress(TimeoutError):
            async with asyncio.timeout_at(end):
                while self._acceptor.opening or self._state.connections or self._state.tasks:
                    self._state.changed.clear()
                    await self._state.changed.wait()
        if told:
            late = self._open_websockets()
            self._state.logger.info("closed %d WebSockets with 1012; %d clients did not answer in time", told, late)

    def _open_websockets(self) -> int:
        return sum(isinstance(connection, WebSocketConnection) for connection in self._state.connections)

    def renew_certificate(self) -> None:
        """Load the certificate from its files if they have changed. The server does so regularly, too."""
        if self._renewal is not None:
            self._renewal.look()

    async def stop(self) -> None:
        """Close all connections at once, and cancel their requests. Idempotent."""
        self._state.draining = True
        tasks: set[asyncio.Task[None]] = set(self._state.tasks)
        if self._acceptor is not None:
            tasks |= self._acceptor.opening.keys()
            self._acceptor.abort()
        for connection in list(self._state.connections):
            connection.transport.abort()
        if self._sweeper is not None:
            tasks.add(self._sweeper)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_GRACE_S)

    # Accepting

    def _protocol(self, place: Place) -> HttpConnection:
        return HttpConnection(self._config, self._state, asyncio.get_running_loop(), place)

    def _resume(self) -> None:
        state = self._state
        if not state.draining:  # other clients may need the place, or the memory, of an idle connection
            crowded = state.places.full or not state.buffers.keep_alive
            state.idle_grace_s = IDLE_GRACE_S if crowded else math.inf
        if self._acceptor is not None:
            self._acceptor.resume()

    # Deadlines

    async def _sweep_every(self, tick: float) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(tick)
            now = loop.time()
            self._sweep(now, min(now - last, 2 * tick))  # time in which the loop was blocked is not a client's fault
            last = now

    def _sweep(self, now: float, elapsed: float) -> None:
        self._state.set_date()
        self._looked_s += elapsed
        if self._looked_s > RENEWAL_S:
            self._looked_s = 0.0
            self.renew_certificate()
        self._state.buffers.settle()
        self._state.refusals.settle(elapsed)
        self._state.impatience = self._state.places.impatience
        assert self._acceptor is not None
        self._acceptor.sweep(now)
        self._resume()
        crowded = self._state.idle_grace_s < math.inf
        for connection in list(self._state.connections):
            if not isinstance(connection, HttpConnection | WebSocketConnection):
                continue
            try:
                if crowded and isinstance(connection, HttpConnection):
                    connection.make_room()
                connection.sweep(now, elapsed)
            except Exception:  # an error in one connection must not stop the sweep over the others
                self._state.logger.exception("a connection failed in the sweep")
                connection.transport.abort()
        self._state.connection_closed()  # file descriptors may have become free elsewhere


def with_middlewares(app: ASGIApp, options: HTTPOptions) -> ASGIApp:
    """Return *app* inside the Starlette middlewares of *options*. The first middleware is the outermost."""
    for middleware in reversed(options.middlewares):
        app = middleware.cls(app, *middleware.args, **middleware.kwargs)
    return app


def most_connections(wanted: int) -> int:
    """Return the number of connections for which the process has file descriptors, at most *wanted*."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return wanted
    try:
        used = len(os.listdir("/dev/fd"))
    except OSError:
        used = 0
    return max(1, min(wanted, allowed - used - SPARE_DESCRIPTORS))
