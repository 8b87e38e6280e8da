"""The HTTP server of the proxy: a listener, its connections, and how they end.

Rule 1: runs on the loop it is started on, in any thread; it installs no signal handler and ends no process.
Rule 2: At the connection limit a new connection gets the place of one that keeps the server waiting. If all are being
served, it waits in the kernel's queue.
Rule 3: draining serves what the kernel has accepted before the listener closes.
"""

from __future__ import annotations

import asyncio
import math
import os
import resource
from contextlib import suppress
from typing import Final

from starlette.types import ASGIApp
from uvicorn.config import Config

from serve_bridge.config.http_options import HTTPOptions
from serve_bridge.http_server.acceptor import Acceptor, bracketed, listen
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
"""File descriptors kept back from connections, for replicas' sockets and files of the process."""

RENEWAL_S: Final = 10.0
"""Time between two looks at the files of the certificate."""

DRAIN_TICK_S: Final = 0.02
IDLE_GRACE_S: Final = 0.25
"""How long an idle connection may still send a request, which crosses with the close, while draining or full."""

CANCEL_GRACE_S: Final = 5.0
"""How long `stop` waits for cancelled requests to end."""


class HttpServer:
    """Serves an ASGI application over HTTP/1.1 and WebSocket.

    Args:
        app: The application, which the middlewares of the options go around. It gets no lifespan events.
        options: Where to listen, limits and deadlines.
        cancels: Whether the task of a request is cancelled when its client leaves, which tells an application
            that waits for something else; without, it is only told when it asks.
        buffers: What is held for clients, to be shared with the application. None: the server's own.
        refusals: The requests that are not served, to be shared with the application. None: the server's own.
        answer_window_bytes: Upper limit for the bytes of one answer that the application may hold in memory, beside
            those that it has sent.
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
    ) -> None:
        self._options = options
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
            ws=WebSocketConnection,
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
        """Base URL, without a slash at the end; "" before `start`."""
        return self._url

    async def start(self) -> str:
        """Listen and serve; returns the base URL once connections are accepted.

        Raises:
            ValueError: The host is unknown or no address of this machine, or the certificate cannot be used.
            OSError: The port is taken or needs privileges; the message names host and port.
        """
        host, port = self._options.host, self._options.port
        if host is None:
            raise ValueError("options without a host have no server")
        if self._acceptor is not None:
            raise RuntimeError(f"already listening on {self._url}")
        tls = server_context(self._options)
        if tls is not None:
            self._renewal = CertificateRenewal(tls, self._options)
        self._config.load()
        self._state.set_date()
        listener = await listen(host, port)
        self._acceptor = Acceptor(
            listener,
            self._protocol,
            places=self._state.places,
            changed=self._state.connection_closed,
            logger=self._state.logger,
            tls=None if tls is None else listening_context(tls),
            handshake_timeout_s=self._options.header_timeout_s,
            closing_timeout_s=self._options.write_timeout_s,
        )
        self._url = f"{'https' if tls else 'http'}://{bracketed(host)}:{listener.getsockname()[1]}"
        self._resume()
        options = self._options
        deadlines = (options.header_timeout_s, options.body_timeout_s, options.write_timeout_s)
        tick = min(1.0, max(0.01, min(*deadlines, options.keep_alive_timeout_s) / 4))
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep_every(tick))
        return self._url

    async def drain(self, grace_s: float, *, idle_grace_s: float = IDLE_GRACE_S) -> None:
        """Stop listening, answer what has arrived, close idle connections; at most *grace_s* seconds.

        An idle connection may still send a request, which crosses with the close, for *idle_grace_s*. Returns when
        all connections are closed and all requests answered, or the grace is over.
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
        if self._sweeper is not None:  # the last moments are counted finer than the deadlines of a day
            self._sweeper.cancel()
            self._sweeper = loop.create_task(self._sweep_every(DRAIN_TICK_S))
        with suppress(TimeoutError):
            async with asyncio.timeout_at(end):
                while self._acceptor.opening or self._state.connections or self._state.tasks:
                    self._state.changed.clear()
                    await self._state.changed.wait()
        if told:
            late = self._open_websockets()
            self._state.logger.info("closed %d WebSockets with 1012; %d clients did not in time", told, late)

    def _open_websockets(self) -> int:
        return sum(isinstance(connection, WebSocketConnection) for connection in self._state.connections)

    def renew_certificate(self) -> None:
        """Show the certificate that lies in the files of the options now; the server looks by itself, too."""
        if self._renewal is not None:
            self._renewal.look()

    async def stop(self) -> None:
        """Close everything at once; requests still running are cancelled. Idempotent."""
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
        if not state.draining:  # a client may wait for the place of an idle connection, or for its memory
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
            self._sweep(now, min(now - last, 2 * tick))  # while this loop stands still, no client can be slow
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
            except Exception:  # one connection must not stop the deadlines of the others
                self._state.logger.exception("a connection failed in the sweep")
                connection.transport.abort()
        self._state.connection_closed()  # file descriptors come free without telling


def with_middlewares(app: ASGIApp, options: HTTPOptions) -> ASGIApp:
    """Return *app* inside the Starlette middlewares of *options*; the first is outermost."""
    for middleware in reversed(options.middlewares):
        app = middleware.cls(app, *middleware.args, **middleware.kwargs)
    return app


def most_connections(wanted: int) -> int:
    """Return how many connections the file descriptors left to this process allow, at most *wanted*."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return wanted
    try:
        used = len(os.listdir("/dev/fd"))
    except OSError:
        used = 0
    return max(1, min(wanted, allowed - used - SPARE_DESCRIPTORS))
